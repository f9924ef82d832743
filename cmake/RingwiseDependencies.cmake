# Every library here is a package of Debian 12; docs/architecture.md gives the reason for each.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(dnnl REQUIRED)
find_package(fmt REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(GTest REQUIRED)
find_package(LibArchive REQUIRED)
find_package(ZLIB REQUIRED)

add_library(dnnl INTERFACE)
target_link_libraries(dnnl INTERFACE DNNL::dnnl)

# Highway chooses among these instruction sets at run time; the ones left out add only build time.
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET libhwy)
add_library(ringwise_highway INTERFACE)
target_link_libraries(ringwise_highway INTERFACE PkgConfig::HWY)
target_compile_definitions(ringwise_highway INTERFACE
                           "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_AVX3_DL)")

# oneDNN's own OpenMP is told to use one thread inside each of our threads; nothing else uses it.
find_package(OpenMP REQUIRED)
add_library(ringwise_openmp INTERFACE)
target_link_libraries(ringwise_openmp INTERFACE OpenMP::OpenMP_CXX)

set(RINGWISE_MPI_LIBRARY "")
if(RINGWISE_MPI)
  find_package(MPI REQUIRED COMPONENTS CXX)
  set(RINGWISE_MPI_LIBRARY MPI::MPI_CXX)
endif()

add_library(ringwise_flags INTERFACE)
target_include_directories(ringwise_flags INTERFACE ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)
target_compile_options(ringwise_flags INTERFACE -Wall -Wextra -Wshadow -Wno-unused-parameter
                                                -fno-omit-frame-pointer)
target_compile_definitions(ringwise_flags INTERFACE RINGWISE_VERSION="${PROJECT_VERSION}")
if(RINGWISE_WERROR)
  target_compile_options(ringwise_flags INTERFACE -Werror)
endif()
if(RINGWISE_SANITIZE)
  target_compile_options(ringwise_flags INTERFACE -fsanitize=${RINGWISE_SANITIZE}
                                                  -fno-sanitize-recover=all)
  target_link_options(ringwise_flags INTERFACE -fsanitize=${RINGWISE_SANITIZE})
endif()
target_link_libraries(ringwise_flags INTERFACE Threads::Threads)
