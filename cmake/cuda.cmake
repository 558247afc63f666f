# The CUDA backend: built if a toolkit (12 or 13) is found, else its stub (src/backend/no_cuda). FLEXGEN_CUDA_FOUND says which.

set(FLEXGEN_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO (if nvcc is found), ON, OFF")
# Code for 7.5, 8.0 (which 8.6 and 8.9 run too) and 9.0, and PTX for what comes later. For the GPU at hand alone: native.
set(FLEXGEN_CUDA_ARCHITECTURES "75-real;80-real;90" CACHE STRING "GPUs to compile for, as CMAKE_CUDA_ARCHITECTURES")
set(FLEXGEN_CUDA_FOUND FALSE)

if(FLEXGEN_CUDA AND NOT FLEXGEN_SANITIZE AND NOT FLEXGEN_FUZZ)
  # cuobjdump and the like come along with nvcc, which may be installed but not on the PATH.
  find_program(FLEXGEN_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(FLEXGEN_NVCC)
    set(CMAKE_CUDA_COMPILER ${FLEXGEN_NVCC} CACHE FILEPATH "" FORCE)
    set(CMAKE_CUDA_ARCHITECTURES ${FLEXGEN_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    if(CUDAToolkit_VERSION VERSION_LESS 12)
      message(STATUS "CUDA toolkit ${CUDAToolkit_VERSION} is too old (12 or 13 would do): no CUDA backend")
    else()
      set(FLEXGEN_CUDA_FOUND TRUE)
      set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
      if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has C++20
        set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
        set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
      endif()
      # constexpr functions, such as row_bytes(), may be called in kernels
      add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>
        "$<$<COMPILE_LANGUAGE:CUDA>:-DFMT_CONSTEVAL=;-DFMT_USE_CONSTEXPR=1>"  # fmt 9 does not check its formats under nvcc
        "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers,-Wno-restrict>")
      if(FLEXGEN_WERROR)
        add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings -Xcompiler=-Werror>")
      endif()
      message(STATUS "CUDA toolkit ${CUDAToolkit_VERSION}: CUDA backend for ${FLEXGEN_CUDA_ARCHITECTURES}")
    endif()
  elseif(NOT FLEXGEN_CUDA STREQUAL AUTO)
    message(FATAL_ERROR "FLEXGEN_CUDA is ${FLEXGEN_CUDA}, but no nvcc was found: add its folder to PATH")
  endif()
endif()
