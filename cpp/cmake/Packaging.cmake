# What `cmake --install` and CPack write: a tree that can be moved as a whole.
include(CMakePackageConfigHelpers)

set(AUTOSAM_CMAKE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/autosam")

if(AUTOSAM_SINGLE_FILE)
  # Without the link libautosam.so linkers are given the file itself.
  set(AUTOSAM_PC_LIBRARY "-l:libautosam.so.${AUTOSAM_ABI}")
  install(TARGETS autosam EXPORT autosamTargets
          LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT runtime NAMELINK_SKIP)
else()
  set(AUTOSAM_PC_LIBRARY "-lautosam")
  install(TARGETS autosam EXPORT autosamTargets
          LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT runtime
          NAMELINK_COMPONENT development)
endif()
if(TARGET autosam_trt)
  install(TARGETS autosam_trt LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT runtime)
endif()
install(FILES include/autosam.h include/autosam.hpp
        DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT development)
install(EXPORT autosamTargets NAMESPACE autosam:: DESTINATION "${AUTOSAM_CMAKE_DIR}"
        COMPONENT development)
configure_package_config_file(cmake/autosamConfig.cmake.in generated/autosamConfig.cmake
                              INSTALL_DESTINATION "${AUTOSAM_CMAKE_DIR}")
# Before 1.0 every minor version may change what is promised.
write_basic_package_version_file(generated/autosamConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/generated/autosamConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/generated/autosamConfigVersion.cmake"
        DESTINATION "${AUTOSAM_CMAKE_DIR}" COMPONENT development)

# pkg-config finds the rest of the tree from where its file lies.
file(RELATIVE_PATH AUTOSAM_PC_TO_PREFIX "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file(cmake/autosam.pc.in generated/autosam.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/generated/autosam.pc"
        DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig" COMPONENT development)

install(FILES "${PROJECT_SOURCE_DIR}/../LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}"
        COMPONENT runtime)
if(TARGET autosam-run)
  set_target_properties(autosam-run PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
  install(TARGETS autosam-run RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT runtime)
endif()

set(CPACK_PACKAGE_NAME "libautosam")
set(CPACK_PACKAGE_VENDOR "autosam-deploy")
set(CPACK_PACKAGE_CONTACT "autosam-deploy")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_RESOURCE_FILE_LICENSE "${PROJECT_SOURCE_DIR}/../LICENSE")
set(CPACK_GENERATOR TGZ DEB)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SECTION libs)
include(CPack)
