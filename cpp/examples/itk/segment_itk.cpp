// A volume from file to file with ITK: NIfTI, NRRD, MetaImage. Labels keep the volume's geometry.
//
//     segment_itk BUNDLE IN.nii.gz OUT.nii.gz [auto|i|j|k]
#include <itkImage.h>
#include <itkImageFileReader.h>
#include <itkImageFileWriter.h>

#include <array>
#include <autosam.hpp>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

namespace {

using Volume = itk::Image<float, 3>;
using Labels = itk::Image<std::uint8_t, 3>;

// Thick slices were acquired along the axis of the largest spacing; the last axis if none is
// clearly the largest.
char thick_axis(const Volume& volume) {
  const auto spacing = volume.GetSpacing();
  constexpr double kClearly = 1.001;
  for (unsigned axis = 0; axis < 3; ++axis) {
    const double others = std::max(spacing[(axis + 1) % 3], spacing[(axis + 2) % 3]);
    if (spacing[axis] > kClearly * others) return "ijk"[axis];
  }
  return 'k';
}

// Slices along an axis, as a view of voxels whose first index is the fastest. Of the other two axes
// the slower one becomes the height.
template <class Image>
autosam_tensor view(Image& image, char axis) {
  const auto size = image.GetLargestPossibleRegion().GetSize();
  const std::array<std::int64_t, 3> sizes{static_cast<std::int64_t>(size[0]),
                                          static_cast<std::int64_t>(size[1]),
                                          static_cast<std::int64_t>(size[2])};
  const std::array<std::int64_t, 3> strides{1, sizes[0], sizes[0] * sizes[1]};
  const std::size_t across = axis == 'i' ? 0 : axis == 'j' ? 1 : 2;
  const std::size_t height = axis == 'k' ? 1 : 2;
  const std::size_t width = axis == 'i' ? 1 : 0;
  return autosam::tensor(image.GetBufferPointer(), {sizes[across], sizes[height], sizes[width]},
                         {strides[across], strides[height], strides[width]});
}

void segment(const char* bundle, const char* in, const char* out, const std::string& asked) {
  const autosam::Session session(bundle);
  const Volume::Pointer volume = itk::ReadImage<Volume>(in);
  std::string axis = asked.empty() ? session.info().slice_axis : asked;
  if (axis == "auto") axis = thick_axis(*volume);
  if (axis != "i" && axis != "j" && axis != "k") {
    throw std::invalid_argument("axis; got '" + axis + "'; expected auto, i, j or k");
  }
  const Labels::Pointer labels = Labels::New();
  labels->CopyInformation(volume);
  labels->SetRegions(volume->GetLargestPossibleRegion());
  labels->Allocate();
  session.run(view(*volume, axis[0]), view(*labels, axis[0]));
  itk::WriteImage(labels.GetPointer(), out, /*compress=*/true);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::fprintf(stderr, "usage: %s BUNDLE IN OUT [auto|i|j|k]\n", argv[0]);
    return 2;
  }
  try {
    segment(argv[1], argv[2], argv[3], argc == 5 ? argv[4] : "");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  return 1;
}
