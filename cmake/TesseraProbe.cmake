# SPDX-License-Identifier: Apache-2.0
# How a library is found: a candidate counts only once a small program compiles and links with it.
#
# Every library LIB ends with TESSERA_HAVE_<LIB> and an imported target tessera::dep_<lib>, and
# leaves TESSERA_<LIB>_{VERSION,WHERE,WHY,FIX} for the table. Nothing found is cached except a
# probe that succeeded, so that installing what was missing and configuring again is enough.

find_package(PkgConfig QUIET)

# tessera_probe(UCX result why INCLUDES … LIBRARIES …)
# result: whether probes/ucx.c builds; why: the first error line where it does not.
function(tessera_probe name result why)
  cmake_parse_arguments(arg "" "" "INCLUDES;LIBRARIES" ${ARGN})
  string(TOLOWER ${name} lower)
  set(source "${PROJECT_SOURCE_DIR}/cmake/probes/${lower}.c")
  file(SHA1 "${source}" key)
  string(SHA1 key "${key}|${arg_INCLUDES}|${arg_LIBRARIES}|${CMAKE_C_COMPILER}|${CMAKE_C_FLAGS}")
  set(${why} "" PARENT_SCOPE)
  set(${result} ON PARENT_SCOPE)
  if("${TESSERA_PROBED_${name}}" STREQUAL key)
    return()
  endif()
  try_compile(built SOURCES "${source}"
    CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${arg_INCLUDES}"
    LINK_LIBRARIES ${arg_LIBRARIES} OUTPUT_VARIABLE output NO_CACHE)
  if(built)
    set(TESSERA_PROBED_${name} ${key} CACHE INTERNAL "")
    return()
  endif()
  set(reason "a small program does not build with it")
  if("${output}" MATCHES "[^\n]*(error:|cannot find|undefined reference|No such file|not recognized)[^\n]*")
    string(STRIP "${CMAKE_MATCH_0}" reason)
  endif()
  list(GET arg_LIBRARIES 0 library)
  string(APPEND reason " (with ${library})")
  set(${result} OFF PARENT_SCOPE)
  set(${why} "${reason}" PARENT_SCOPE)
endfunction()

# tessera_dependency(UCX INCLUDES … LIBRARIES …): the target that our code links, and what the
# installed package needs to know about it. A shared library outside of the system's folders adds to
# the run path, what is found later ahead of what is found earlier; CMake alone would leave out those
# in the CUDA toolkit, which it takes for the system.
function(tessera_dependency name)
  cmake_parse_arguments(arg "" "" "INCLUDES;LIBRARIES" ${ARGN})
  string(TOLOWER ${name} lower)
  add_library(tessera::dep_${lower} INTERFACE IMPORTED GLOBAL)
  target_include_directories(tessera::dep_${lower} SYSTEM INTERFACE ${arg_INCLUDES})
  target_link_libraries(tessera::dep_${lower} INTERFACE ${arg_LIBRARIES})
  set_property(GLOBAL PROPERTY TESSERA_DEPENDENCY_${lower} "${arg_LIBRARIES}")
  foreach(library ${arg_LIBRARIES})
    if(IS_ABSOLUTE "${library}" AND library MATCHES "\\.so")
      cmake_path(GET library PARENT_PATH folder)
      if(NOT folder IN_LIST CMAKE_C_IMPLICIT_LINK_DIRECTORIES)
        get_property(run_path GLOBAL PROPERTY TESSERA_RUN_PATH)
        set_property(GLOBAL PROPERTY TESSERA_RUN_PATH "${folder}" ${run_path})
      endif()
    endif()
  endforeach()
endfunction()

# tessera_not(UCX "why"): records that a library is not used; an error where it was asked for.
macro(tessera_not name why)
  set(TESSERA_HAVE_${name} OFF)
  set(TESSERA_${name}_WHY "${why}")
  if(TESSERA_WITH_${name} STREQUAL "ON")
    message(FATAL_ERROR "${name} was asked for (TESSERA_WITH_${name}=ON) and cannot be used: "
      "${TESSERA_${name}_WHY}.\nFix: ${TESSERA_${name}_FIX}")
  endif()
endmacro()

# tessera_find(UCX PACKAGES "ucx>=1.12" HEADER ucp/api/ucp.h LIBRARIES ucp ucs MISSING "why")
# Looks in <NAME>_ROOT when that is set, and then nowhere else; else asks pkg-config, package by
# package; else searches the system. Sets TESSERA_HAVE_<NAME> and friends in the caller.
function(tessera_find name)
  cmake_parse_arguments(arg "" "HEADER;MISSING" "PACKAGES;LIBRARIES" ${ARGN})
  set(why "${arg_MISSING}")
  set(root "${${name}_ROOT}")
  if(NOT root)
    set(root "$ENV{${name}_ROOT}")
  endif()

  if(NOT root AND PKG_CONFIG_FOUND)
    foreach(package ${arg_PACKAGES})
      pkg_check_modules(pc_${name} QUIET "${package}")
      if(pc_${name}_FOUND)
        tessera_probe(${name} usable why INCLUDES ${pc_${name}_INCLUDE_DIRS} LIBRARIES ${pc_${name}_LINK_LIBRARIES})
        if(usable)
          tessera_dependency(${name}
            INCLUDES ${pc_${name}_INCLUDE_DIRS} LIBRARIES ${pc_${name}_LINK_LIBRARIES})
          string(REGEX REPLACE "[<>=].*" "" module "${package}")
          string(TOLOWER ${name} lower)
          set_property(GLOBAL PROPERTY TESSERA_PKGCONFIG_${lower} "${module}")
          list(GET pc_${name}_LINK_LIBRARIES 0 where)
          set(TESSERA_HAVE_${name} ON PARENT_SCOPE)
          set(TESSERA_${name}_VERSION "${pc_${name}_VERSION}" PARENT_SCOPE)
          set(TESSERA_${name}_WHERE "${where}" PARENT_SCOPE)
          return()
        endif()
      endif()
    endforeach()
  endif()

  set(only "")
  if(root)
    set(only NO_DEFAULT_PATH)
    set(why "${name}_ROOT=${root} does not hold ${arg_HEADER} and the library")
  endif()
  find_path(include ${arg_HEADER} HINTS "${root}/include" ${only} NO_CACHE)
  set(libraries "")
  foreach(library ${arg_LIBRARIES})
    unset(found)
    find_library(found ${library} HINTS "${root}/lib" "${root}/lib64" ${only} NO_CACHE)
    list(APPEND libraries "${found}")
  endforeach()
  if(include AND NOT "${libraries}" MATCHES "NOTFOUND")
    tessera_probe(${name} usable why INCLUDES ${include} LIBRARIES ${libraries})
    if(usable)
      tessera_dependency(${name} INCLUDES ${include} LIBRARIES ${libraries})
      list(GET libraries 0 where)
      set(TESSERA_HAVE_${name} ON PARENT_SCOPE)
      set(TESSERA_${name}_WHERE "${where}" PARENT_SCOPE)
      return()
    endif()
  endif()
  set(TESSERA_HAVE_${name} OFF PARENT_SCOPE)
  set(TESSERA_${name}_WHY "${why}" PARENT_SCOPE)
endfunction()
