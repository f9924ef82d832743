# ringwise_room(NAME [DEPENDS room...] [PRIVATE library...] [MPI_SOURCES])
#
# Makes library ringwise_NAME from src/NAME/*.cc and test program NAME_test from src/NAME/*_test.cc.
# Files named *_reference.cc are ordinary sources. With MPI_SOURCES, a pair x_mpi.cc / x_no_mpi.cc is
# chosen by RINGWISE_MPI. Tests named *_mpi_test.cc form NAME_mpi_test, run under mpirun: see
# ringwise_mpi_test. The objects are added to the global property RINGWISE_ROOM_OBJECTS, of which
# RingwiseInstall.cmake makes the library that is installed.
function(ringwise_room name)
  cmake_parse_arguments(ARG "MPI_SOURCES" "" "DEPENDS;PRIVATE" ${ARGN})
  file(GLOB all CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc)
  set(sources ${all})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  if(ARG_MPI_SOURCES)
    if(RINGWISE_MPI)
      list(FILTER sources EXCLUDE REGEX "_no_mpi\\.cc$")
    else()
      list(FILTER sources EXCLUDE REGEX "(^|[^o])_mpi\\.cc$")
    endif()
  endif()
  set(tests ${all})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  set(mpi_tests ${tests})
  list(FILTER tests EXCLUDE REGEX "_mpi_test\\.cc$")
  list(FILTER mpi_tests INCLUDE REGEX "_mpi_test\\.cc$")

  list(TRANSFORM ARG_DEPENDS PREPEND ringwise_)
  if(sources)
    add_library(ringwise_${name} STATIC ${sources})
    target_link_libraries(ringwise_${name} PUBLIC ringwise_flags ${ARG_DEPENDS}
                                           PRIVATE ${ARG_PRIVATE})
    set_property(GLOBAL APPEND PROPERTY RINGWISE_ROOM_OBJECTS $<TARGET_OBJECTS:ringwise_${name}>)
  else()
    add_library(ringwise_${name} INTERFACE)
    target_link_libraries(ringwise_${name} INTERFACE ringwise_flags ${ARG_DEPENDS})
  endif()
  if(tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE ringwise_${name} ${ARG_PRIVATE} GTest::gtest_main
                                               GTest::gmock)
    add_test(NAME ${name} COMMAND ${name}_test)
    if(RINGWISE_SANITIZE)  # instrumented, the oracles take twenty times as long
      set_tests_properties(${name} PROPERTIES TIMEOUT 3600)
    endif()
    if(RINGWISE_SANITIZE MATCHES thread)
      set_tests_properties(${name} PROPERTIES ENVIRONMENT
        "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/cmake/tsan_suppressions.txt")
    endif()
  endif()
  if(mpi_tests AND RINGWISE_MPI)
    add_executable(${name}_mpi_test ${mpi_tests})
    target_link_libraries(${name}_mpi_test PRIVATE ringwise_${name} ${ARG_PRIVATE} GTest::gtest)
    ringwise_mpi_test(${name}_mpi_test)
  endif()
endfunction()

# Runs TARGET under mpirun at several rank counts, 3 and 5 (odd) among them.
function(ringwise_mpi_test target)
  foreach(ranks 1 2 3 5)
    add_test(NAME ${target}_${ranks}
             COMMAND ${MPIEXEC_EXECUTABLE} --oversubscribe --bind-to none
                     ${MPIEXEC_NUMPROC_FLAG} ${ranks} $<TARGET_FILE:${target}>)
    set_tests_properties(${target}_${ranks} PROPERTIES TIMEOUT 300 ENVIRONMENT
      "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_btl_vader_single_copy_mechanism=none")
  endforeach()
endfunction()

# ringwise_program(ROOM ...): the command line, src/ROOM/*.cc, as program `ringwise`.
function(ringwise_program name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;PRIVATE" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc)
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  if(NOT sources)
    return()
  endif()
  list(TRANSFORM ARG_DEPENDS PREPEND ringwise_)
  add_executable(ringwise ${sources})
  target_link_libraries(ringwise PRIVATE ${ARG_DEPENDS} ${ARG_PRIVATE})
endfunction()
