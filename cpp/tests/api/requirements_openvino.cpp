// These tests need OpenVINO: $AUTOSAM_OPENVINO_LIB, or where the system looks.
#include <autosam.h>

#include "../helpers.hpp"

const char* autosam_test::missing_requirement() {
  autosam_options options;
  autosam_options_init(&options);
  options.backend = "openvino";
  autosam_session* session = nullptr;
  const autosam_status status =
      autosam_session_create(autosam_test::threshold().c_str(), &options, &session);
  autosam_session_destroy(session);
  // Any other failure is for the tests to find.
  return status == AUTOSAM_BACKEND_UNAVAILABLE ? autosam_last_error() : nullptr;
}
