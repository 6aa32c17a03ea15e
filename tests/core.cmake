# SPDX-License-Identifier: Apache-2.0
tessera_test(core status LABELS threads)
tessera_test(core option)
tessera_test(core fault LABELS threads)
tessera_test(core dtype)
tessera_test(core device DEVICES host cuda)
tessera_test(core stream DEVICES host cuda LABELS threads)
tessera_test(core stream_host LABELS threads)
tessera_test(core stream_fuzz DEVICES host cuda TIMEOUT 120 LABELS threads)

# Tests that look at what a profiler would see link tessera_test_nvtx.
if(TESSERA_HAVE_NVTX)
  add_library(tessera_test_nvtx_recorder MODULE nvtx_recorder.c)
  target_link_libraries(tessera_test_nvtx_recorder
    PRIVATE tessera_flags tessera::dep_nvtx Threads::Threads)
  add_library(tessera_test_nvtx STATIC nvtx_trace.c)
  target_link_libraries(tessera_test_nvtx
    PUBLIC tessera_test_harness tessera::dep_jansson PRIVATE tessera_flags)
  target_compile_definitions(tessera_test_nvtx
    PRIVATE "TESS_TEST_NVTX_RECORDER=\"$<TARGET_FILE:tessera_test_nvtx_recorder>\"")
  add_dependencies(tessera_test_nvtx tessera_test_nvtx_recorder)
  tessera_test(core trace DEVICES host cuda LABELS threads LIBRARIES tessera_test_nvtx)
endif()

# Each public header compiles alone, as C11 and as C++17: one translation unit a header and language
# that includes nothing else. That they are built is the test; the program then has nothing to do.
file(GLOB headers RELATIVE "${PROJECT_SOURCE_DIR}/include"
  CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/tessera/*.h")
set(units "")
foreach(header ${headers})
  string(MAKE_C_IDENTIFIER "${header}" unit)
  foreach(suffix c cpp)
    set(path "${CMAKE_CURRENT_BINARY_DIR}/headers/${unit}.${suffix}")
    file(CONFIGURE OUTPUT "${path}" CONTENT "#include <${header}>\n")
    list(APPEND units "${path}")
  endforeach()
endforeach()
tessera_test(core headers)
target_sources(test_core_headers PRIVATE ${units})
set_source_files_properties(${units} PROPERTIES COMPILE_OPTIONS "-Wall;-Wextra;-Wpedantic;-Werror")
set_target_properties(test_core_headers PROPERTIES C_EXTENSIONS OFF CXX_EXTENSIONS OFF)
