# SPDX-License-Identifier: Apache-2.0
if(TARGET tessera-info)
  tessera_test(bench info LIBRARIES tessera::dep_jansson TIMEOUT 60)
  target_compile_definitions(test_bench_info PRIVATE INFO_PROGRAM="$<TARGET_FILE:tessera-info>")
  add_dependencies(test_bench_info tessera-info)
endif()
