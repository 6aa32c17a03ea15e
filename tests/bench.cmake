# SPDX-License-Identifier: Apache-2.0
# Tests of the benchmarks: most run the programs as a user would.
set(topics args sweep tune overlap failure)
if(TARGET tessera_test_nvtx_recorder)
  list(APPEND topics trace)
endif()
foreach(topic ${topics})
  tessera_test(bench ${topic} NEEDS UCX SOURCES bench_rig.c LIBRARIES tessera::dep_jansson
    TIMEOUT 300)
  target_compile_definitions(test_bench_${topic} PRIVATE
    BENCH_FOLDER="$<TARGET_FILE_DIR:bench_allgather>")
  add_dependencies(test_bench_${topic} bench_allgather bench_reduce_scatter bench_overlap)
endforeach()
if(TARGET test_bench_trace)
  target_compile_definitions(test_bench_trace PRIVATE
    NVTX_RECORDER="$<TARGET_FILE:tessera_test_nvtx_recorder>")
  add_dependencies(test_bench_trace tessera_test_nvtx_recorder)
endif()
# Its ranks meet over TCP and move nothing.
tessera_test(bench adam SOURCES bench_rig.c LIBRARIES tessera::dep_jansson TIMEOUT 300)
set(threads 1)
if(TESSERA_HAVE_OPENMP)
  set(threads 1,2)
endif()
target_compile_definitions(test_bench_adam PRIVATE BENCH_FOLDER="$<TARGET_FILE_DIR:bench_adam>"
  BENCH_THREADS="${threads}")
add_dependencies(test_bench_adam bench_adam bench_allgather)
if(TARGET bench_offload)
  tessera_test(bench offload SOURCES bench_rig.c LIBRARIES tessera::dep_jansson TIMEOUT 300)
  target_compile_definitions(test_bench_offload PRIVATE
    BENCH_FOLDER="$<TARGET_FILE_DIR:bench_offload>")
  add_dependencies(test_bench_offload bench_offload)
endif()
tessera_test(bench pattern LIBRARIES tessera_bench DEVICES host cuda)
tessera_test(bench number LIBRARIES tessera_bench)
tessera_test(bench watch LIBRARIES tessera_bench TIMEOUT 60 LABELS threads)
