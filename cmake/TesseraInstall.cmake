# SPDX-License-Identifier: Apache-2.0
# cmake --install: programs, headers, libraries per module, a CMake package and pkg-config files.
#
# The shared libraries need nothing from who links them. The static ones need what they were built
# with; the package records those files and says which are missing on the user's machine.
include(CMakePackageConfigHelpers)

get_property(modules GLOBAL PROPERTY TESSERA_MODULES)
get_property(programs GLOBAL PROPERTY TESSERA_PROGRAMS)
set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/tessera")

install(DIRECTORY include/tessera DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  FILES_MATCHING PATTERN "*.h")
install(FILES LICENSE README.md CHANGELOG.md DESTINATION "${CMAKE_INSTALL_DOCDIR}")
if(programs)
  install(TARGETS ${programs} RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
foreach(module ${modules})
  install(TARGETS tessera_${module}_shared EXPORT tesseraSharedTargets
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(TARGETS tessera_${module}_static EXPORT tesseraStaticTargets
    ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endforeach()
install(EXPORT tesseraSharedTargets NAMESPACE tessera:: DESTINATION "${package_dir}")
install(EXPORT tesseraStaticTargets NAMESPACE tessera:: DESTINATION "${package_dir}")

# --- what the static libraries need ---------------------------------------------------------------

set(TESSERA_STATIC_DEPENDENCIES "")
foreach(dependency cudart nccl ucx uring nvtx openmp)
  if(TARGET tessera::dep_${dependency})
    get_property(libraries GLOBAL PROPERTY TESSERA_DEPENDENCY_${dependency})
    string(APPEND TESSERA_STATIC_DEPENDENCIES
      "tessera_static_dependency(${dependency} \"${libraries}\")\n")
  endif()
endforeach()
configure_package_config_file(cmake/tesseraConfig.cmake.in
  "${PROJECT_BINARY_DIR}/package/tesseraConfig.cmake" INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/package/tesseraConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/package/tesseraConfig.cmake"
  "${PROJECT_BINARY_DIR}/package/tesseraConfigVersion.cmake" DESTINATION "${package_dir}")

# --- pkg-config -----------------------------------------------------------------------------------

# A library as a linker argument; one outside the system's folders also gives the run path.
function(tessera_link_argument library result)
  if(library STREQUAL "Threads::Threads")
    set(argument "-pthread")
  elseif(NOT IS_ABSOLUTE "${library}")
    set(argument "-l${library}")
  else()
    set(argument "${library}")
    cmake_path(GET library PARENT_PATH folder)
    if(library MATCHES "\\.so" AND NOT folder IN_LIST CMAKE_C_IMPLICIT_LINK_DIRECTORIES)
      string(APPEND argument " -Wl,-rpath,${folder}")
    endif()
  endif()
  set(${result} "${argument}" PARENT_SCOPE)
endfunction()

cmake_path(SET pc_folder NORMALIZE "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig")
file(RELATIVE_PATH TESSERA_PC_PREFIX "${pc_folder}" "${CMAKE_INSTALL_PREFIX}")
string(REGEX REPLACE "/$" "" TESSERA_PC_PREFIX "${TESSERA_PC_PREFIX}")
foreach(module ${modules})
  get_property(needs GLOBAL PROPERTY TESSERA_MODULE_LIBRARIES_${module})
  get_property(private GLOBAL PROPERTY TESSERA_MODULE_PRIVATE_${module})
  set(TESSERA_PC_NAME ${module})
  list(TRANSFORM needs PREPEND "tessera-")
  list(JOIN needs ", " TESSERA_PC_REQUIRES)
  set(packages "")
  set(arguments "")
  foreach(library ${private})
    string(REGEX REPLACE "^tessera::dep_" "" dependency "${library}")
    get_property(package GLOBAL PROPERTY TESSERA_PKGCONFIG_${dependency})
    get_property(files GLOBAL PROPERTY TESSERA_DEPENDENCY_${dependency})
    if(package)
      list(APPEND packages ${package})
    else()
      if(NOT library MATCHES "^tessera::dep_")
        set(files ${library})
      endif()
      foreach(file ${files})
        tessera_link_argument("${file}" argument)
        list(APPEND arguments "${argument}")
      endforeach()
    endif()
  endforeach()
  list(REMOVE_DUPLICATES arguments)
  list(JOIN packages ", " TESSERA_PC_REQUIRES_PRIVATE)
  list(JOIN arguments " " TESSERA_PC_LIBS_PRIVATE)
  configure_file(cmake/tessera.pc.in "${PROJECT_BINARY_DIR}/package/tessera-${module}.pc" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/package/tessera-${module}.pc"
    DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endforeach()
