// See NvInfer.h.
#pragma once

#if defined(FAKE_RTX)
#define TRT_MAJOR_RTX 1
#define NV_TENSORRT_MAJOR TRT_MAJOR_RTX
#define NV_TENSORRT_VERSION 10701
#else
#define NV_TENSORRT_MAJOR FAKE_MAJOR
#define NV_TENSORRT_VERSION (FAKE_MAJOR * 10000 + 100)
#endif
