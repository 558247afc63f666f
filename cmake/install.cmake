# `cmake --install`, in two components: program (the program, its man pages and completions) and library (the engine for programs of others).

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS flexgen COMPONENT program)
install(CODE "execute_process(COMMAND ${CMAKE_SOURCE_DIR}/tools/write_pages.sh ${CMAKE_BINARY_DIR}/flexgen ${CMAKE_BINARY_DIR}/generated/share COMMAND_ERROR_IS_FATAL ANY)"
  COMPONENT program)
install(DIRECTORY ${CMAKE_BINARY_DIR}/generated/share/ DESTINATION ${CMAKE_INSTALL_DATADIR} COMPONENT program)

# flexgen_needs(VARIABLE TARGET): the room and all that it is linked with, rooms alone.
function(flexgen_needs variable target)
  set(needs ${${variable}})
  if(target MATCHES "^flexgen_" AND NOT target IN_LIST needs)
    list(APPEND needs ${target})
    get_target_property(linked ${target} INTERFACE_LINK_LIBRARIES)
    foreach(library ${linked})
      flexgen_needs(needs ${library})
    endforeach()
  endif()
  set(${variable} ${needs} PARENT_SCOPE)
endfunction()

set(library_rooms)
flexgen_needs(library_rooms flexgen_engine)
foreach(library ${library_rooms})
  string(REPLACE flexgen_ "" room ${library})
  set_target_properties(${library} PROPERTIES EXPORT_NAME ${room})
  target_include_directories(${library} INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/flexgen>)
  target_compile_features(${library} INTERFACE cxx_std_20)
  install(DIRECTORY src/${room} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/flexgen COMPONENT library FILES_MATCHING PATTERN "*.h" PATTERN "test_*.h" EXCLUDE)
endforeach()
if(FLEXGEN_CUDA_FOUND)
  target_link_libraries(flexgen_backend INTERFACE $<INSTALL_INTERFACE:CUDA::cudart_static>)
endif()
install(TARGETS ${library_rooms} EXPORT flexgenTargets COMPONENT library)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/flexgen)
install(EXPORT flexgenTargets NAMESPACE flexgen:: DESTINATION ${package_dir} COMPONENT library)
if(FLEXGEN_XGRAMMAR_FOUND)
  install(FILES ${FLEXGEN_XGRAMMAR_DIR}/libxgrammar.a RENAME libflexgen_xgrammar.a DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library)
endif()
set(FLEXGEN_LIBRARY_DIR ${CMAKE_INSTALL_LIBDIR})
configure_package_config_file(cmake/flexgenConfig.cmake.in ${CMAKE_BINARY_DIR}/generated/cmake/flexgenConfig.cmake
  INSTALL_DESTINATION ${package_dir} PATH_VARS FLEXGEN_LIBRARY_DIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/generated/cmake/flexgenConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES cmake/libraries.cmake ${CMAKE_BINARY_DIR}/generated/cmake/flexgenConfig.cmake ${CMAKE_BINARY_DIR}/generated/cmake/flexgenConfigVersion.cmake
  DESTINATION ${package_dir} COMPONENT library)
