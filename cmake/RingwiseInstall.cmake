# What `cmake --install` puts in place: program `ringwise`, the public headers, all rooms as one
# static library, and the package that find_package(ringwise) reads. Nothing installed names a
# folder of this machine, so the prefix may be moved.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# The rooms' objects once more, in one archive: outside, nobody depends on how rooms are cut.
get_property(objects GLOBAL PROPERTY RINGWISE_ROOM_OBJECTS)
add_library(ringwise_library STATIC ${objects})
set_target_properties(ringwise_library PROPERTIES OUTPUT_NAME ringwise EXPORT_NAME ringwise
                                                  LINKER_LANGUAGE CXX)
target_compile_features(ringwise_library INTERFACE cxx_std_20)
target_include_directories(ringwise_library INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
# Found again by cmake/ringwise-config.cmake.in. None of them appears in a public header.
target_link_libraries(ringwise_library PRIVATE DNNL::dnnl PkgConfig::HWY OpenMP::OpenMP_CXX fmt::fmt
                                               Threads::Threads LibArchive::LibArchive ZLIB::ZLIB
                                               ${RINGWISE_MPI_LIBRARY})
if(RINGWISE_SANITIZE)
  target_link_options(ringwise_library INTERFACE -fsanitize=${RINGWISE_SANITIZE})
endif()

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/ringwise)
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/ringwise-config.cmake.in
                              ${CMAKE_BINARY_DIR}/cmake/ringwise-config.cmake
                              INSTALL_DESTINATION ${package} NO_SET_AND_CHECK_MACRO
                              NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/cmake/ringwise-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)

install(TARGETS ringwise)
install(TARGETS ringwise_library EXPORT ringwise-targets)
install(EXPORT ringwise-targets NAMESPACE ringwise:: DESTINATION ${package})
install(FILES ${CMAKE_BINARY_DIR}/cmake/ringwise-config.cmake
              ${CMAKE_BINARY_DIR}/cmake/ringwise-config-version.cmake DESTINATION ${package})
install(DIRECTORY include/ringwise DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.h")
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR})
