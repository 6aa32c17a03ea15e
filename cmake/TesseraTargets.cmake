# SPDX-License-Identifier: Apache-2.0
# One function a kind of target, so that every module and every program is built alike.

add_library(tessera_flags INTERFACE)
target_compile_options(tessera_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wshadow -Wconversion -Wvla
    # Sentences are written into bounded buffers on purpose.
    -Wno-format-truncation -ffp-contract=off>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
  $<$<AND:$<COMPILE_LANGUAGE:C>,$<BOOL:${TESSERA_WERROR}>>:-Werror>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${TESSERA_WERROR}>>:-Werror=all-warnings>)
target_compile_definitions(tessera_flags INTERFACE _GNU_SOURCE)
target_include_directories(tessera_flags INTERFACE "${PROJECT_SOURCE_DIR}")
if(TESSERA_SANITIZE)
  # What undefined-behaviour checks find ends the program, so that a test cannot pass over it.
  target_compile_options(tessera_flags INTERFACE
    $<$<COMPILE_LANGUAGE:C>:-fsanitize=${TESSERA_SANITIZE} -fno-sanitize-recover=all
      -fno-omit-frame-pointer -g>)
  target_link_options(tessera_flags INTERFACE -fsanitize=${TESSERA_SANITIZE})
endif()

get_property(tessera_run_path GLOBAL PROPERTY TESSERA_RUN_PATH)
list(REMOVE_DUPLICATES tessera_run_path)
set(CMAKE_BUILD_RPATH ${tessera_run_path})

# Where an installed program or library finds the shared libraries installed beside it.
file(RELATIVE_PATH tessera_libdir_from_bindir
  "${CMAKE_INSTALL_FULL_BINDIR}" "${CMAKE_INSTALL_FULL_LIBDIR}")

# tessera_module(core SOURCES … LIBRARIES modules… PRIVATE libraries…)
# libtessera_core, shared and static from the same objects: tessera::core, tessera::core_static.
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
      VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} INSTALL_RPATH "$ORIGIN;${tessera_run_path}")
    target_include_directories(${target} PUBLIC
      $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    foreach(library ${arg_LIBRARIES})
      target_link_libraries(${target} PUBLIC tessera_${library}_${suffix})
    endforeach()
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:tessera_flags> ${arg_PRIVATE})
  endforeach()
  # What a static library brings along stays out of our shared one's symbols.
  target_link_options(tessera_${name}_shared PRIVATE LINKER:--exclude-libs,ALL LINKER:--no-undefined)
  set_target_properties(tessera_${name}_shared PROPERTIES EXPORT_NAME ${name})
  set_target_properties(tessera_${name}_static PROPERTIES EXPORT_NAME ${name}_static)
  add_library(tessera::${name} ALIAS tessera_${name}_shared)
  add_library(tessera::${name}_static ALIAS tessera_${name}_static)
  set_property(GLOBAL APPEND PROPERTY TESSERA_MODULES ${name})
  set_property(GLOBAL PROPERTY TESSERA_MODULE_LIBRARIES_${name} "${arg_LIBRARIES}")
  set_property(GLOBAL PROPERTY TESSERA_MODULE_PRIVATE_${name} "${arg_PRIVATE}")
endfunction()

# tessera_program(bench_allgather SOURCES … LIBRARIES …): a program for people, in bin/, installed.
function(tessera_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE tessera_flags ${arg_LIBRARIES})
  set_target_properties(${name} PROPERTIES
    INSTALL_RPATH "$ORIGIN/${tessera_libdir_from_bindir};${tessera_run_path}")
  set_property(GLOBAL APPEND PROPERTY TESSERA_PROGRAMS ${name})
endfunction()
