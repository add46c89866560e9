#include "model_spec.hpp"

#include <algorithm>

#include "error.hpp"

namespace autosam::core {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr Range kPositive{1, kMost};

struct Encoder {
  std::array<std::int64_t, 2> image_size{1024, 1024};
  std::int64_t out_chans = 256;
};

bool lower(char letter) {
  return letter >= 'a' && letter <= 'z';
}
bool digit(char letter) {
  return letter >= '0' && letter <= '9';
}

double positive(const Json& value, const Place& place) {
  const double number = as_number(value, place);
  if (!(number > 0)) place.refuse(value, "a number greater than 0");
  return number;
}

void check_name(const std::string& name, const Place& place) {
  const bool good =
      !name.empty() && lower(name[0]) && std::all_of(name.begin(), name.end(), [](char letter) {
        return lower(letter) || digit(letter) || letter == '_';
      });
  if (!good) place.refuse("'" + name + "'", "a-z, then a-z, 0-9 and '_'");
}

void read_sides(const Json& size, const Place& place, std::array<std::int64_t, 2>& sides) {
  const std::vector<Json>& items = as_list(size, place);
  if (items.size() != sides.size()) place.refuse(size, "height and width");
  for (std::size_t i = 0; i < items.size(); ++i) {
    // 31 bits: the C interface tells them as int32_t.
    sides[i] = as_integer(items[i], place.below(std::to_string(i)), {1, INT32_MAX});
  }
}

std::vector<std::int64_t> positives(const Json& value, const Place& place, std::size_t count) {
  std::vector<std::int64_t> found = read_list<std::int64_t>(
      value, place, 0,
      [](const Json& item, const Place& where) { return as_integer(item, where, kPositive); });
  if (found.size() != count) place.refuse(value, std::to_string(count) + " numbers");
  return found;
}

void check_divides(std::int64_t heads, std::int64_t width, const Place& place) {
  if (width % heads == 0) return;
  place.refuse("num_heads " + std::to_string(heads), "a divisor of " + std::to_string(width));
}

// Each kind returns the pixels along the side of a token of its embedding.
std::int64_t read_vit(Fields& fields, const Place& place) {
  const std::int64_t embed_dim = fields.integer("embed_dim", kPositive);
  const std::int64_t depth = fields.integer("depth", kPositive);
  const std::int64_t num_heads = fields.integer("num_heads", kPositive);
  read_list<std::int64_t>(fields.required("global_attn_indexes"), fields.at("global_attn_indexes"),
                          0, [depth](const Json& item, const Place& where) {
                            return as_integer(item, where, {0, depth - 1});
                          });
  fields.integer_or("window_size", 14, {0, kMost});
  check_divides(num_heads, embed_dim, place);
  return fields.integer_or("patch_size", 16, kPositive);
}

std::int64_t read_tinyvit(Fields& fields, const Place& place) {
  constexpr std::size_t kStages = 4;
  const auto widths = positives(fields.required("embed_dims"), fields.at("embed_dims"), kStages);
  positives(fields.required("depths"), fields.at("depths"), kStages);
  const auto heads = positives(fields.required("num_heads"), fields.at("num_heads"), kStages - 1);
  if (const Json* windows = fields.find("window_sizes")) {
    positives(*windows, fields.at("window_sizes"), kStages - 1);
  }
  if (widths[0] % 2 != 0) fields.at("embed_dims").refuse(std::to_string(widths[0]), "even");
  for (std::size_t i = 0; i < heads.size(); ++i) check_divides(heads[i], widths[i + 1], place);
  if (const Json* ratio = fields.find("expand_ratio")) positive(*ratio, fields.at("expand_ratio"));
  const std::int64_t stride = fields.integer_or("stem_stride", 4, {1, 4});
  if (stride != 1 && stride != 4) {
    fields.at("stem_stride").refuse(std::to_string(stride), "1 or 4");
  }
  return 4 * stride;
}

Encoder read_encoder(const Json& value, const Place& place) {
  Fields fields(value, place);
  Encoder encoder;
  check_name(fields.text("name"), fields.at("name"));
  // Files from before there were kinds hold ViTs and do not say so.
  const bool vit = fields.word_or("kind", "vit", {"vit", "tinyvit"}) == "vit";
  const std::int64_t token = vit ? read_vit(fields, place) : read_tinyvit(fields, place);
  if (const Json* ratio = fields.find("mlp_ratio")) positive(*ratio, fields.at("mlp_ratio"));
  encoder.out_chans = fields.integer_or("out_chans", encoder.out_chans, kPositive);
  const Place size_place = fields.at("image_size");
  const Json* size = vit ? fields.find("image_size") : &fields.required("image_size");
  if (size != nullptr) read_sides(*size, size_place, encoder.image_size);
  fields.finish();
  for (const std::int64_t side : encoder.image_size) {
    if (side % token != 0) {
      size_place.refuse(std::to_string(side), "positive multiples of " + std::to_string(token));
    }
  }
  return encoder;
}

struct Head {
  std::int64_t num_classes = 0;
  std::int64_t embed_dim = 256;
};

Head read_head(const Json& value, const Place& place) {
  Fields fields(value, place);
  Head head;
  const std::string kind = fields.word("kind", {"autosam", "cnn", "linear"});
  head.num_classes = fields.integer("num_classes", {2, 255});
  head.embed_dim = fields.integer_or("embed_dim", head.embed_dim, kPositive);
  if (kind == "autosam") {
    fields.integer_or("transformer_depth", 2, kPositive);
    const std::int64_t num_heads = fields.integer_or("num_heads", 8, {1, kMost / 2});
    fields.integer_or("mlp_dim", 2048, kPositive);
    if (head.embed_dim % (2 * num_heads) != 0 || head.embed_dim % 8 != 0) {
      place.refuse("embed_dim " + std::to_string(head.embed_dim),
                   "a multiple of 8 and of 2 x num_heads");
    }
  } else if (kind == "cnn") {
    fields.integer_or("depth", 4, {1, 6});
    fields.integer_or("top_channels", 64, kPositive);
  } else if (const Json* relu = fields.find("final_relu")) {
    as_boolean(*relu, fields.at("final_relu"));
  }
  fields.finish();
  return head;
}

ClassSpec read_class(const Json& value, const Place& place) {
  Fields fields(value, place);
  ClassSpec found{fields.text("name", 1), fields.text("colour")};
  fields.finish();
  constexpr std::size_t kDigits = 6;
  const std::string& colour = found.colour;
  const bool good = colour.size() == kDigits + 1 && colour[0] == '#' &&
                    std::all_of(colour.begin() + 1, colour.end(), [](char letter) {
                      return digit(letter) || (letter >= 'a' && letter <= 'f');
                    });
  if (!good) fields.at("colour").refuse("'" + colour + "'", "'#' and six digits of 0-9, a-f");
  return found;
}

// Three numbers, or nothing for null and a missing key.
std::vector<double> triple(Fields& fields, const std::string& key, bool above_zero) {
  const Json* value = fields.find_not_null(key);
  if (value == nullptr) return {};
  const Place place = fields.at(key);
  auto numbers = read_list<double>(*value, place, 0, [&](const Json& item, const Place& where) {
    return above_zero ? positive(item, where) : as_number(item, where);
  });
  if (numbers.size() != 3) place.refuse(*value, "three numbers");
  return numbers;
}

// The graph does the preprocessing; a host needs the axis alone, but believes no part unread.
std::string read_preprocess(const Json& value, const Place& place) {
  Fields fields(value, place);
  const std::string intensity = fields.word_or("intensity", "slice-minmax",
                                               {"slice-minmax", "slice-zscore", "window", "none"});
  const Json* level = fields.find_not_null("window_level");
  const Json* width = fields.find_not_null("window_width");
  if (level != nullptr) as_number(*level, fields.at("window_level"));
  if (width != nullptr) positive(*width, fields.at("window_width"));
  const bool mean = !triple(fields, "pixel_mean", false).empty();
  const bool deviation = !triple(fields, "pixel_std", true).empty();
  fields.word_or("resize", "stretch", {"stretch", "longest-side"});
  std::string axis = fields.word_or("slice_axis", "auto", {"auto", "i", "j", "k"});
  fields.finish();
  const bool windowed = intensity == "window";
  if ((level != nullptr) != windowed || (width != nullptr) != windowed) {
    place.refuse("intensity '" + intensity + "'",
                 "window_level and window_width with intensity 'window', both");
  }
  if (mean != deviation) {
    place.refuse(mean ? "pixel_mean alone" : "pixel_std alone", "both or none of them");
  }
  return axis;
}

std::vector<std::string> read_outputs(const Json& value, const Place& place) {
  auto names = read_list<std::string>(value, place, 0, [](const Json& item, const Place& where) {
    return as_word(item, where, {"labels", "logits"});
  });
  const bool both = names == std::vector<std::string>{"labels", "logits"};
  if (names.size() != 1 && !both) place.refuse(value, "labels, logits, or labels then logits");
  return names;
}

}  // namespace

std::string TensorSpec::shown() const {
  std::string text = dtype + " " + name + " (";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (axis > 0) text += ", ";
    const auto* size = std::get_if<std::int64_t>(&shape[axis]);
    text += size != nullptr ? std::to_string(*size) : std::get<std::string>(shape[axis]);
  }
  return text + ")";
}

TensorSpec ModelSpec::input_tensor() {
  return {"slices", "float32", {"B", std::int64_t{1}, "H", "W"}};
}

std::vector<TensorSpec> ModelSpec::output_tensors() const {
  std::vector<TensorSpec> tensors;
  for (const std::string& name : outputs) {
    if (name == "labels") {
      tensors.push_back({name, "uint8", {"B", "H", "W"}});
    } else {
      tensors.push_back({name, "float32", {"B", num_classes, "H", "W"}});
    }
  }
  return tensors;
}

bool ModelSpec::has_output(const std::string& name) const {
  return std::find(outputs.begin(), outputs.end(), name) != outputs.end();
}

ModelSpec read_model(const Json& value, const Place& place) {
  Fields fields(value, place);
  const Encoder encoder = read_encoder(fields.required("encoder"), fields.at("encoder"));
  const Head head = read_head(fields.required("head"), fields.at("head"));
  ModelSpec model;
  model.image_size = encoder.image_size;
  model.num_classes = head.num_classes;
  model.classes =
      read_list<ClassSpec>(fields.required("classes"), fields.at("classes"), 0, read_class);
  model.slice_axis = "auto";
  if (const Json* preprocess = fields.find("preprocess")) {
    model.slice_axis = read_preprocess(*preprocess, fields.at("preprocess"));
  }
  model.outputs = {"labels", "logits"};
  if (const Json* outputs = fields.find("outputs")) {
    model.outputs = read_outputs(*outputs, fields.at("outputs"));
  }
  fields.finish();
  if (head.embed_dim != encoder.out_chans) {
    place.refuse("a head for embeddings of " + std::to_string(head.embed_dim) + " channels",
                 "the encoder's " + std::to_string(encoder.out_chans));
  }
  if (static_cast<std::int64_t>(model.classes.size()) != head.num_classes) {
    place.refuse(std::to_string(model.classes.size()) + " classes named for " +
                     std::to_string(head.num_classes),
                 "one name for each");
  }
  return model;
}

TensorSpec read_tensor(const Json& value, const Place& place) {
  Fields fields(value, place);
  TensorSpec tensor;
  tensor.name = fields.text("name");
  tensor.dtype = fields.word("dtype", {"float32", "float16", "uint8"});
  using Dimension = std::variant<std::int64_t, std::string>;
  tensor.shape = read_list<Dimension>(fields.required("shape"), fields.at("shape"), 0,
                                      [](const Json& item, const Place& where) -> Dimension {
                                        if (item.type == Json::Type::kText) return item.text;
                                        return as_integer(item, where);
                                      });
  fields.finish();
  return tensor;
}

}  // namespace autosam::core
