# SPDX-License-Identifier: Apache-2.0
# What a user meets before the first line of code: set-up, installation, linking from outside.
# A sanitizer build would ask the outside program for its run-time library, so it is left out there.
if(NOT TESSERA_SANITIZE)
  add_test(NAME packaging.install COMMAND bash "${CMAKE_CURRENT_SOURCE_DIR}/test_packaging.sh"
    "${PROJECT_BINARY_DIR}" "${CMAKE_COMMAND}" "${CMAKE_C_COMPILER}")
  set_tests_properties(packaging.install PROPERTIES TIMEOUT 180 LABELS packaging)
endif()
add_test(NAME packaging.setup COMMAND bash "${CMAKE_CURRENT_SOURCE_DIR}/test_packaging_setup.sh")
set_tests_properties(packaging.setup PROPERTIES TIMEOUT 60 LABELS packaging)
