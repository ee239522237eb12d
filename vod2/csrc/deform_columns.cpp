#include <torch/library.h>

namespace vod2 {

TORCH_LIBRARY_FRAGMENT(vod2, library) {
  library.def(
      "deform_columns(Tensor maps, Tensor offsets, Tensor? mask, int[] kernel, int[] stride, int[] padding, "
      "int[] dilation) -> Tensor");
}

}  // namespace vod2
