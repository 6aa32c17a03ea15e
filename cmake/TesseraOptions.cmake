# SPDX-License-Identifier: Apache-2.0
# What a user may choose at configure time, and the flags of our own code.

foreach(library CUDA NCCL UCX BLAS)
  set(TESSERA_WITH_${library} AUTO CACHE STRING "Use ${library}: AUTO, ON (must be found) or OFF")
  set_property(CACHE TESSERA_WITH_${library} PROPERTY STRINGS AUTO ON OFF)
endforeach()
option(TESSERA_BUILD_TESTS "Build the tests" ON)
option(TESSERA_WERROR "Treat warnings in our own code as errors" OFF)
set(TESSERA_SANITIZE "" CACHE STRING "address,undefined or thread; empty for none")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_C_STANDARD 11)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_SOURCE_DIR}/build/bin" CACHE PATH "Where programs land")
