// Those classes and functions of TensorRT that libautosam_trt.so uses, written for tests from the
// names in its documentation ("TensorRT API Reference, C++"). Objects are laid out otherwise than
// NVIDIA's: what is built with this header works with the library in tensorrt.cpp alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "NvInferVersion.h"

using cudaStream_t = struct CUstream_st*;

namespace nvinfer1 {

enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1, kUINT8 = 5, kINT64 = 8 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : std::int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class ExecutionContextAllocationStrategy : std::int32_t { kSTATIC = 0, kUSER_MANAGED = 2 };

struct Dims {
  std::int32_t nbDims = 0;
  std::int64_t d[8] = {};
};

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, const char* text) noexcept = 0;
  virtual ~ILogger() = default;
};

class IExecutionContext {
 public:
  virtual ~IExecutionContext() = default;
  virtual bool setInputShape(const char* name, const Dims& sizes) noexcept = 0;
  virtual std::int32_t inferShapes(std::int32_t most, const char** names) noexcept = 0;
  virtual Dims getTensorShape(const char* name) const noexcept = 0;
  virtual bool setTensorAddress(const char* name, void* address) noexcept = 0;
  virtual std::size_t updateDeviceMemorySizeForShapes() noexcept = 0;
  virtual void setDeviceMemoryV2(void* memory, std::int64_t bytes) noexcept = 0;
  virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

class ICudaEngine {
 public:
  virtual ~ICudaEngine() = default;
  virtual std::int32_t getNbIOTensors() const noexcept = 0;
  virtual const char* getIOTensorName(std::int32_t index) const noexcept = 0;
  virtual TensorIOMode getTensorIOMode(const char* name) const noexcept = 0;
  virtual DataType getTensorDataType(const char* name) const noexcept = 0;
  virtual Dims getTensorShape(const char* name) const noexcept = 0;
  virtual std::int32_t getNbOptimizationProfiles() const noexcept = 0;
  virtual Dims getProfileShape(const char* name, std::int32_t profile,
                               OptProfileSelector which) const noexcept = 0;
  virtual IExecutionContext* createExecutionContext(
      ExecutionContextAllocationStrategy strategy) noexcept = 0;
};

class IRuntime {
 public:
  virtual ~IRuntime() = default;
  virtual ICudaEngine* deserializeCudaEngine(const void* plan, std::size_t bytes) noexcept = 0;
};

}  // namespace nvinfer1
