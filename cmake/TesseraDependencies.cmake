# SPDX-License-Identifier: Apache-2.0
# Which libraries this build uses: CUDA, NCCL, NVTX, UCX, liburing, a CBLAS, OpenMP, jansson and cmocka.
#
# CUDA::cuda_driver is never linked: a program that needs libcuda.so.1 would not even start on a
# machine without a driver.

find_package(Threads REQUIRED)

# --- CUDA -----------------------------------------------------------------------------------------

# CUDA_HOME and CUDA_PATH come before PATH; /usr/local/cuda is tried last.
function(tessera_find_nvcc result)
  find_program(nvcc nvcc NO_CACHE NO_DEFAULT_PATH
    PATHS "$ENV{CUDA_HOME}/bin" "$ENV{CUDA_PATH}/bin" "${CUDAToolkit_ROOT}/bin")
  if(NOT nvcc)
    find_program(nvcc nvcc NO_CACHE PATHS /usr/local/cuda/bin /opt/cuda/bin)
    foreach(variable CUDA_HOME CUDA_PATH)
      if(NOT "$ENV{${variable}}" STREQUAL "")
        message(NOTICE "${variable}=$ENV{${variable}} holds no bin/nvcc; using ${nvcc}")
      endif()
    endforeach()
  endif()
  set(${result} "${nvcc}" PARENT_SCOPE)
endfunction()

# 80 and 90, and 100 where the compiler knows it; only those that this compiler knows.
function(tessera_cuda_architectures nvcc result)
  execute_process(COMMAND "${nvcc}" --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
  set(chosen "")
  foreach(architecture 80 90 100)
    if(known MATCHES "compute_${architecture}([^0-9]|$)")
      list(APPEND chosen ${architecture})
    endif()
  endforeach()
  if(NOT chosen)
    set(chosen 80)
  endif()
  set(${result} "${chosen}" PARENT_SCOPE)
endfunction()

set(TESSERA_CUDA_FIX
  "install the CUDA toolkit 12.0 or newer, or give its folder: CUDA_HOME=/path cmake …")
set(TESSERA_HAVE_CUDA OFF)
set(TESSERA_HAVE_CUBLAS OFF)
if(TESSERA_WITH_CUDA STREQUAL "OFF")
  set(TESSERA_CUDA_WHY "switched off (TESSERA_WITH_CUDA=OFF)")
else()
  if(NOT CMAKE_CUDA_COMPILER AND "$ENV{CUDACXX}" STREQUAL "")
    tessera_find_nvcc(nvcc)
    if(nvcc)
      set(ENV{CUDACXX} "${nvcc}")
    endif()
  endif()
  # Tried in a project of its own, because enable_language ends the configuration where it fails.
  if(NOT CMAKE_CUDA_COMPILER)
    unset(CMAKE_CUDA_COMPILER CACHE)
    include(CheckLanguage)
    check_language(CUDA)
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    if("$ENV{CUDACXX}" STREQUAL "")
      tessera_not(CUDA "nvcc is not in CUDA_HOME, on PATH or in /usr/local/cuda/bin")
    else()
      set(TESSERA_CUDA_FIX "a toolkit that knows this compiler, or a compiler that the toolkit \
knows: CUDAHOSTCXX=/usr/bin/g++-12 cmake …")
      tessera_not(CUDA "$ENV{CUDACXX} builds no small program with the host compiler")
    endif()
  else()
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND "$ENV{CUDAARCHS}" STREQUAL "")
      tessera_cuda_architectures("${CMAKE_CUDA_COMPILER}" architectures)
      set(CMAKE_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "CUDA architectures")
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(cudart ${CUDA_cudart_static_LIBRARY} rt Threads::Threads ${CMAKE_DL_LIBS})
    if(CUDAToolkit_VERSION VERSION_LESS 12.0)
      tessera_not(CUDA "toolkit ${CUDAToolkit_VERSION} is older than 12.0")
    else()
      tessera_probe(CUDA usable why
        INCLUDES ${CUDAToolkit_INCLUDE_DIRS} LIBRARIES ${cudart})
      if(usable)
        # The static runtime: a program starts, and says what is missing, where no driver is.
        tessera_dependency(CUDART INCLUDES ${CUDAToolkit_INCLUDE_DIRS} LIBRARIES ${cudart})
        set(TESSERA_HAVE_CUDA ON)
        set(TESSERA_CUDA_VERSION "${CUDAToolkit_VERSION}")
        set(TESSERA_CUDA_WHERE "${CMAKE_CUDA_COMPILER}, for sm ${CMAKE_CUDA_ARCHITECTURES}")
      else()
        tessera_not(CUDA "${why}")
      endif()
    endif()
  endif()
endif()

# cuBLAS is needed by benchmarks alone; a toolkit without it is still a toolkit.
if(TESSERA_HAVE_CUDA)
  set(TESSERA_CUBLAS_WHY "the CUDA toolkit has no libcublas")
  set(TESSERA_CUBLAS_FIX "apt install libcublas-dev-${CUDAToolkit_VERSION_MAJOR}-${CUDAToolkit_VERSION_MINOR} (from NVIDIA's repository)")
  if(TARGET CUDA::cublas)
    tessera_probe(CUBLAS TESSERA_HAVE_CUBLAS TESSERA_CUBLAS_WHY
      INCLUDES ${CUDAToolkit_INCLUDE_DIRS} LIBRARIES ${CUDA_cublas_LIBRARY})
  endif()
  if(TESSERA_HAVE_CUBLAS)
    set(TESSERA_CUBLAS_WHERE "${CUDA_cublas_LIBRARY}")
    tessera_dependency(CUBLAS
      INCLUDES ${CUDAToolkit_INCLUDE_DIRS} LIBRARIES ${CUDA_cublas_LIBRARY})
  endif()
endif()

# --- NCCL -----------------------------------------------------------------------------------------

# The folder of the Python wheel that NVIDIA publishes, or nothing.
function(tessera_nccl_wheel result)
  set(${result} "" PARENT_SCOPE)
  find_program(python NAMES python3 python NO_CACHE)
  if(python)
    execute_process(OUTPUT_VARIABLE folder ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE
      COMMAND "${python}" -c
        "import importlib.util as u; print(list(u.find_spec('nvidia.nccl').submodule_search_locations)[0])")
    set(${result} "${folder}" PARENT_SCOPE)
  endif()
endfunction()

# tessera_nccl_try(where root…): header and library of one root must belong together. The wheel
# holds libnccl.so.2 and no libnccl.so. Without a root: the system's folders.
macro(tessera_nccl_try)
  set(nccl_only "")
  if(NOT "${ARGN}" STREQUAL "")
    set(nccl_only NO_DEFAULT_PATH)
  endif()
  unset(nccl_include)
  unset(nccl_library)
  find_path(nccl_include nccl.h PATHS ${ARGN} PATH_SUFFIXES include ${nccl_only} NO_CACHE)
  find_library(nccl_library NAMES nccl libnccl.so.2 PATHS ${ARGN}
    PATH_SUFFIXES lib lib64 lib/x86_64-linux-gnu lib/aarch64-linux-gnu ${nccl_only} NO_CACHE)
  if(NOT TESSERA_HAVE_NCCL AND nccl_include AND nccl_library)
    tessera_probe(NCCL TESSERA_HAVE_NCCL nccl_why
      INCLUDES ${nccl_include} ${CUDAToolkit_INCLUDE_DIRS} LIBRARIES ${nccl_library})
  endif()
endmacro()

set(TESSERA_HAVE_NCCL OFF)
set(TESSERA_NCCL_FIX "apt install libnccl-dev (from NVIDIA's repository), or \
pip install nvidia-nccl-cu${CUDAToolkit_VERSION_MAJOR}, or NCCL_ROOT=/path cmake …")
if(TESSERA_WITH_NCCL STREQUAL "OFF")
  set(TESSERA_NCCL_WHY "switched off (TESSERA_WITH_NCCL=OFF)")
elseif(NOT TESSERA_HAVE_CUDA)
  set(TESSERA_NCCL_FIX "as for CUDA")
  if(TESSERA_WITH_CUDA STREQUAL "OFF")
    set(TESSERA_NCCL_FIX "TESSERA_WITH_CUDA=AUTO")
  endif()
  tessera_not(NCCL "it needs CUDA")
else()
  set(nccl_why "nccl.h and libnccl.so.2 are not in NCCL_ROOT, the CUDA toolkit, a Python wheel or the system")
  set(nccl_root "${NCCL_ROOT}")
  foreach(variable NCCL_ROOT NCCL_HOME)
    if(NOT nccl_root)
      set(nccl_root "$ENV{${variable}}")
    endif()
  endforeach()
  if(nccl_root)
    set(nccl_why "${nccl_root}, given as NCCL_ROOT or NCCL_HOME, does not hold include/nccl.h and lib/libnccl.so.2")
    tessera_nccl_try("${nccl_root}")
  else()
    cmake_path(GET CUDAToolkit_LIBRARY_DIR PARENT_PATH cuda_target)
    tessera_nccl_try("${cuda_target}" ${CUDAToolkit_LIBRARY_ROOT})
    if(NOT TESSERA_HAVE_NCCL)
      tessera_nccl_wheel(wheel)
      if(wheel)
        tessera_nccl_try("${wheel}")
      endif()
    endif()
    if(NOT TESSERA_HAVE_NCCL)
      tessera_nccl_try()
    endif()
  endif()
  if(TESSERA_HAVE_NCCL)
    # Ahead of the toolkit, which may hold another version: its header in every order of
    # dependencies, its library in the run path.
    foreach(toolkit cudart cublas)
      if(TARGET tessera::dep_${toolkit})
        target_include_directories(tessera::dep_${toolkit} SYSTEM BEFORE INTERFACE ${nccl_include})
      endif()
    endforeach()
    tessera_dependency(NCCL INCLUDES ${nccl_include} LIBRARIES ${nccl_library})
    file(STRINGS "${nccl_include}/nccl.h" nccl_lines REGEX "#define NCCL_(MAJOR|MINOR|PATCH) ")
    string(REGEX REPLACE "[^0-9;]" "" TESSERA_NCCL_VERSION "${nccl_lines}")
    string(REPLACE ";" "." TESSERA_NCCL_VERSION "${TESSERA_NCCL_VERSION}")
    set(TESSERA_NCCL_WHERE "${nccl_library}")
  else()
    tessera_not(NCCL "${nccl_why}")
  endif()
endif()

# --- NVTX -----------------------------------------------------------------------------------------

# Headers alone, and useful without a GPU: a profiler or a test's recorder loads itself into them.
set(TESSERA_HAVE_NVTX OFF)
set(TESSERA_NVTX_FIX
  "it comes with the CUDA toolkit; or NVTX_ROOT=/path/to/NVTX/c (github.com/NVIDIA/NVTX) cmake …")
if(TESSERA_WITH_NVTX STREQUAL "OFF")
  set(TESSERA_NVTX_WHY "switched off (TESSERA_WITH_NVTX=OFF)")
else()
  find_path(nvtx_include nvtx3/nvToolsExt.h NO_CACHE
    HINTS "${NVTX_ROOT}/include" "$ENV{NVTX_ROOT}/include" ${CUDAToolkit_INCLUDE_DIRS}
      "$ENV{CUDA_HOME}/include" "$ENV{CUDA_PATH}/include" /usr/local/cuda/include)
  if(nvtx_include)
    tessera_probe(NVTX TESSERA_HAVE_NVTX why
      INCLUDES ${nvtx_include} LIBRARIES ${CMAKE_DL_LIBS})
  else()
    set(why "nvtx3/nvToolsExt.h is not there")
  endif()
  if(TESSERA_HAVE_NVTX)
    tessera_dependency(NVTX INCLUDES ${nvtx_include} LIBRARIES ${CMAKE_DL_LIBS})
    file(STRINGS "${nvtx_include}/nvtx3/nvToolsExt.h" nvtx_line REGEX "define NVTX_VERSION ")
    string(REGEX MATCH "[0-9]+" TESSERA_NVTX_VERSION "${nvtx_line}")
    cmake_path(SET TESSERA_NVTX_WHERE NORMALIZE "${nvtx_include}/nvtx3")
  else()
    tessera_not(NVTX "${why}")
  endif()
endif()

# --- OpenMP ---------------------------------------------------------------------------------------

# It comes with the compiler, so CMake's own search, which builds a program, takes the probe's place.
set(TESSERA_OPENMP_FIX "gcc brings libgomp along; for clang: apt install libomp-dev")
set(TESSERA_HAVE_OPENMP OFF)
if(TESSERA_WITH_OPENMP STREQUAL "OFF")
  set(TESSERA_OPENMP_WHY "switched off (TESSERA_WITH_OPENMP=OFF)")
elseif(TESSERA_SANITIZE STREQUAL "thread")
  set(TESSERA_OPENMP_FIX "another TESSERA_SANITIZE")
  tessera_not(OPENMP "the thread sanitizer does not know how its threads wait for one another")
else()
  find_package(OpenMP QUIET COMPONENTS C)
  if(OpenMP_C_FOUND)
    set(libraries "")
    foreach(library ${OpenMP_C_LIB_NAMES})
      if(library STREQUAL "pthread")
        list(APPEND libraries Threads::Threads)
      else()
        list(APPEND libraries "${OpenMP_${library}_LIBRARY}")
      endif()
    endforeach()
    tessera_dependency(OPENMP INCLUDES ${OpenMP_C_INCLUDE_DIRS} LIBRARIES ${libraries})
    set(TESSERA_HAVE_OPENMP ON)
    set(TESSERA_OPENMP_VERSION "${OpenMP_C_VERSION}")
    list(GET libraries 0 TESSERA_OPENMP_WHERE)
  else()
    tessera_not(OPENMP "${CMAKE_C_COMPILER_ID} builds no program with it")
  endif()
endif()

# --- UCX, liburing, BLAS, jansson, cmocka ---------------------------------------------------------

set(TESSERA_UCX_FIX "apt install libucx-dev, or UCX_ROOT=/path cmake …")
set(TESSERA_HAVE_UCX OFF)
if(TESSERA_WITH_UCX STREQUAL "OFF")
  set(TESSERA_UCX_WHY "switched off (TESSERA_WITH_UCX=OFF)")
else()
  tessera_find(UCX PACKAGES ucx>=1.12 HEADER ucp/api/ucp.h LIBRARIES ucp ucs
    MISSING "UCX 1.12 or newer is not installed")
  if(NOT TESSERA_HAVE_UCX)
    tessera_not(UCX "${TESSERA_UCX_WHY}")
  endif()
endif()

set(TESSERA_URING_FIX "apt install liburing-dev, or URING_ROOT=/path cmake …")
set(TESSERA_HAVE_URING OFF)
if(TESSERA_WITH_URING STREQUAL "OFF")
  set(TESSERA_URING_WHY "switched off (TESSERA_WITH_URING=OFF)")
else()
  tessera_find(URING PACKAGES liburing>=2.2 HEADER liburing.h LIBRARIES uring
    MISSING "liburing 2.2 or newer is not installed")
  if(NOT TESSERA_HAVE_URING)
    tessera_not(URING "${TESSERA_URING_WHY}")
  endif()
endif()

set(TESSERA_BLAS_FIX "apt install libopenblas-dev, or BLAS_ROOT=/path cmake …")
set(TESSERA_HAVE_BLAS OFF)
if(TESSERA_WITH_BLAS STREQUAL "OFF")
  set(TESSERA_BLAS_WHY "switched off (TESSERA_WITH_BLAS=OFF)")
else()
  tessera_find(BLAS PACKAGES openblas blis cblas HEADER cblas.h LIBRARIES openblas
    MISSING "no CBLAS (OpenBLAS, BLIS) is installed")
  if(NOT TESSERA_HAVE_BLAS)
    tessera_not(BLAS "${TESSERA_BLAS_WHY}")
  endif()
endif()

tessera_find(JANSSON PACKAGES jansson>=2.10 HEADER jansson.h LIBRARIES jansson
  MISSING "it is not installed")
if(NOT TESSERA_HAVE_JANSSON)
  message(FATAL_ERROR "jansson 2.10 or newer, which reads and writes JSON, cannot be used: "
    "${TESSERA_JANSSON_WHY}.\nFix: apt install libjansson-dev, or JANSSON_ROOT=/path cmake …")
endif()

if(TESSERA_BUILD_TESTS)
  tessera_find(CMOCKA PACKAGES cmocka>=1.1.5 HEADER cmocka.h LIBRARIES cmocka
    MISSING "it is not installed")
  if(NOT TESSERA_HAVE_CMOCKA)
    message(FATAL_ERROR "cmocka 1.1.5 or newer, which the tests need, cannot be used: "
      "${TESSERA_CMOCKA_WHY}.\nFix: apt install libcmocka-dev, or CMOCKA_ROOT=/path cmake …, or "
      "build without tests: -DTESSERA_BUILD_TESTS=OFF")
  endif()
endif()
