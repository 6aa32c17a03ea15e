# SPDX-License-Identifier: Apache-2.0
# One function a kind of target, so that every module is built alike.

add_library(tessera_flags INTERFACE)
target_compile_options(tessera_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wshadow -Wconversion -Wvla -ffp-contract=off>
  $<$<AND:$<COMPILE_LANGUAGE:C>,$<BOOL:${TESSERA_WERROR}>>:-Werror>)
target_compile_definitions(tessera_flags INTERFACE _GNU_SOURCE)
target_include_directories(tessera_flags INTERFACE "${PROJECT_SOURCE_DIR}")
if(TESSERA_SANITIZE)
  target_compile_options(tessera_flags INTERFACE
    -fsanitize=${TESSERA_SANITIZE} -fno-omit-frame-pointer -g)
  target_link_options(tessera_flags INTERFACE -fsanitize=${TESSERA_SANITIZE})
endif()

# tessera_module(core SOURCES … LIBRARIES public… PRIVATE private…): libtessera_core, shared and static.
function(tessera_module name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES;PRIVATE" ${ARGN})
  add_library(tessera_${name}_objects OBJECT ${arg_SOURCES})
  target_include_directories(tessera_${name}_objects PUBLIC "${PROJECT_SOURCE_DIR}/include")
  target_link_libraries(tessera_${name}_objects PRIVATE tessera_flags ${arg_PRIVATE})
  foreach(kind SHARED STATIC)
    string(TOLOWER ${kind} suffix)
    set(target tessera_${name}_${suffix})
    add_library(${target} ${kind} $<TARGET_OBJECTS:tessera_${name}_objects>)
    set_target_properties(${target} PROPERTIES OUTPUT_NAME tessera_${name}
      VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
    target_include_directories(${target} PUBLIC
      $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    foreach(library ${arg_LIBRARIES})
      target_link_libraries(${target} PUBLIC tessera_${library}_${suffix})
    endforeach()
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:tessera_flags> ${arg_PRIVATE})
  endforeach()
  add_library(tessera::${name} ALIAS tessera_${name}_shared)
endfunction()
