# What nearly every file includes, compiled once: parsing it is half of a build. Without it (ccache takes such files for new ones) everything
# compiles as well: a file still includes what it needs.

if(CMAKE_CXX_COMPILER_LAUNCHER)
  option(FLEXGEN_PCH "Use precompiled headers" OFF)
else()
  option(FLEXGEN_PCH "Use precompiled headers" ON)
endif()

set(FLEXGEN_PCH_HEADERS
  <algorithm> <array> <atomic> <chrono> <cmath> <condition_variable> <cstdint> <cstdio> <cstring> <deque> <filesystem> <fstream> <functional> <limits> <map> <memory> <mutex>
  <optional> <set> <span> <sstream> <string> <string_view> <thread> <tuple> <utility> <variant> <vector>
  <fmt/format.h> <fmt/ranges.h> <spdlog/spdlog.h> <nlohmann/json.hpp>)

# Once the libraries are found.
function(flexgen_precompile_headers)
  if(NOT FLEXGEN_PCH)
    return()
  endif()
  file(WRITE ${CMAKE_BINARY_DIR}/generated/precompiled.cc "")
  foreach(target flexgen_pch flexgen_test_pch)
    add_library(${target} OBJECT EXCLUDE_FROM_ALL ${CMAKE_BINARY_DIR}/generated/precompiled.cc)
    target_link_libraries(${target} PRIVATE fmt::fmt spdlog::spdlog nlohmann_json::nlohmann_json OpenMP::OpenMP_CXX Threads::Threads)
  endforeach()
  target_link_libraries(flexgen_test_pch PRIVATE GTest::gmock)
  target_precompile_headers(flexgen_pch PRIVATE ${FLEXGEN_PCH_HEADERS})
  target_precompile_headers(flexgen_test_pch PRIVATE ${FLEXGEN_PCH_HEADERS} <gmock/gmock.h> <gtest/gtest.h>)
endfunction()

# flexgen_precompiled(TARGET PCH_TARGET)
function(flexgen_precompiled target from)
  if(FLEXGEN_PCH)
    target_precompile_headers(${target} REUSE_FROM ${from})
  endif()
endfunction()
