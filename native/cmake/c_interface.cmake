# libpicojoule: the C interface as a shared and a static library, with a CMake package and a pkg-config file.
# In a wheel the shared library and the header lie inside the package, for find_package with
# -Dpicojoule_DIR=<site-packages>/picojoule/lib/cmake/picojoule.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

file(READ ${CMAKE_CURRENT_SOURCE_DIR}/include/picojoule/version.h PJ_VERSION_TEXT)
string(REGEX MATCH "kVersion = \"([0-9.]+)" PJ_FOUND "${PJ_VERSION_TEXT}")
set(PJ_VERSION ${CMAKE_MATCH_1})
file(READ ${CMAKE_CURRENT_SOURCE_DIR}/include/picojoule/picojoule.h PJ_HEADER_TEXT)
string(REGEX MATCH "define PJ_ABI ([0-9]+)" PJ_FOUND "${PJ_HEADER_TEXT}")
set(PJ_ABI ${CMAKE_MATCH_1})

if(SKBUILD)
  set(PJ_ROOT "picojoule/")
  set(CMAKE_INSTALL_LIBDIR lib)
else()
  set(PJ_ROOT "")
endif()
set(PJ_LIB ${PJ_ROOT}${CMAKE_INSTALL_LIBDIR})
set(PJ_INCLUDE ${PJ_ROOT}${CMAKE_INSTALL_INCLUDEDIR})

add_library(picojoule SHARED $<TARGET_OBJECTS:pjcore>)
target_link_libraries(picojoule PRIVATE Threads::Threads)
target_include_directories(picojoule INTERFACE $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
  $<INSTALL_INTERFACE:${PJ_INCLUDE}>)
set(PJ_TARGETS picojoule)
if(SKBUILD)  # a wheel has no place for links between versions
  set_target_properties(picojoule PROPERTIES NO_SONAME ON)
else()
  set_target_properties(picojoule PROPERTIES VERSION ${PJ_VERSION} SOVERSION ${PJ_ABI})
  # The archive holds the engine too, so that one file is enough.
  add_library(picojoule_static STATIC $<TARGET_OBJECTS:pjcore>)
  set_target_properties(picojoule_static PROPERTIES OUTPUT_NAME picojoule EXPORT_NAME static)
  target_link_libraries(picojoule_static PUBLIC Threads::Threads)
  target_include_directories(picojoule_static INTERFACE $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${PJ_INCLUDE}>)
  list(APPEND PJ_TARGETS picojoule_static)
endif()
# Nothing but pj_ leaves the library, not even what the C++ library instantiates in it.
if(APPLE)
  set(PJ_EXPORTS ${CMAKE_CURRENT_BINARY_DIR}/exports.txt)
  file(WRITE ${PJ_EXPORTS} "_pj_*\n")
  target_link_options(picojoule PRIVATE -Wl,-exported_symbols_list,${PJ_EXPORTS})
elseif(UNIX)
  set(PJ_EXPORTS ${CMAKE_CURRENT_BINARY_DIR}/exports.map)
  file(WRITE ${PJ_EXPORTS} "{ global: pj_*; local: *; };\n")
  target_link_options(picojoule PRIVATE -Wl,--version-script=${PJ_EXPORTS} -Wl,--gc-sections)
endif()

install(TARGETS ${PJ_TARGETS} EXPORT picojoule LIBRARY DESTINATION ${PJ_LIB} ARCHIVE DESTINATION ${PJ_LIB}
  RUNTIME DESTINATION ${PJ_ROOT}bin)
install(FILES ${CMAKE_CURRENT_SOURCE_DIR}/include/picojoule/picojoule.h DESTINATION ${PJ_INCLUDE}/picojoule)
install(EXPORT picojoule NAMESPACE picojoule:: FILE picojoule-targets.cmake DESTINATION ${PJ_LIB}/cmake/picojoule)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/picojoule-config.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/picojoule-config.cmake INSTALL_DESTINATION ${PJ_LIB}/cmake/picojoule)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/picojoule-config-version.cmake
  VERSION ${PJ_VERSION} COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/picojoule-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/picojoule-config-version.cmake DESTINATION ${PJ_LIB}/cmake/picojoule)
configure_file(${CMAKE_CURRENT_LIST_DIR}/picojoule.pc.in ${CMAKE_CURRENT_BINARY_DIR}/picojoule.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/picojoule.pc DESTINATION ${PJ_LIB}/pkgconfig)
