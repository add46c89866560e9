// Memory of a thread that runs out when a test says so.
#pragma once

namespace autosam_test {

// How many more allocations of this thread succeed; -1 is no limit.
extern thread_local long allowed;
// Whether calls out of this program alone are counted: ONNX Runtime is not under test.
extern thread_local bool only_own;

}  // namespace autosam_test
