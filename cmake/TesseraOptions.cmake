# SPDX-License-Identifier: Apache-2.0
# What a user may choose at configure time, and the defaults of everything else.

foreach(library CUDA NCCL UCX URING BLAS NVTX OPENMP)
  set(TESSERA_WITH_${library} AUTO CACHE STRING "Use ${library}: AUTO, ON (must be usable) or OFF")
  set_property(CACHE TESSERA_WITH_${library} PROPERTY STRINGS AUTO ON OFF)
  string(TOUPPER "${TESSERA_WITH_${library}}" choice)
  if(choice MATCHES "^(1|TRUE|YES|Y)$")
    set(choice ON)
  elseif(choice MATCHES "^(0|FALSE|NO|N)$")
    set(choice OFF)
  endif()
  if(NOT choice MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR
      "TESSERA_WITH_${library} is \"${TESSERA_WITH_${library}}\"; it can be AUTO, ON or OFF.")
  endif()
  set(TESSERA_WITH_${library} ${choice})
endforeach()

option(TESSERA_BUILD_TESTS "Build the tests" ON)
option(TESSERA_WERROR "Treat warnings in our own code as errors" OFF)
set(TESSERA_SANITIZE "" CACHE STRING "address,undefined or thread; empty for none")
if(NOT TESSERA_SANITIZE MATCHES "^(|address|undefined|address,undefined|thread)$")
  message(FATAL_ERROR "TESSERA_SANITIZE is \"${TESSERA_SANITIZE}\"; "
    "it can be address, undefined, address,undefined or thread.")
endif()

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_C_STANDARD 11)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)

# The release preset, which the README's commands use, says build/bin; other builds keep to their
# own folder, so that a sanitizer build never replaces the programs that people run.
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin" CACHE PATH "Where programs land")
