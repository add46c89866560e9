#include "manifest.hpp"

#include <algorithm>
#include <set>

#include "error.hpp"
#include "sha256.hpp"

namespace autosam::core {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
const std::vector<std::string> kPrecisions{"fp32", "fp16", "bf16", "int8"};

bool digit(char letter) {
  return letter >= '0' && letter <= '9';
}
bool lower(char letter) {
  return letter >= 'a' && letter <= 'z';
}
bool word_letter(char letter) {
  return digit(letter) || lower(letter) || (letter >= 'A' && letter <= 'Z') || letter == '_' ||
         letter == '-';
}

std::string lowered(std::string text) {
  for (char& letter : text) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return text;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts(1);
  for (const char letter : text) {
    if (letter == at) {
      parts.emplace_back();
    } else {
      parts.back() += letter;
    }
  }
  return parts;
}

// Paths that mean the same on every file system, and nothing outside the bundle.
void check_member_path(const std::string& path, const Place& place) {
  const std::string quoted = "'" + path + "'";
  const bool control = std::any_of(path.begin(), path.end(), [](char letter) {
    return static_cast<unsigned char>(letter) < ' ' || letter == '\\' || letter == ':';
  });
  if (path.empty() || control) place.refuse(quoted + " is not a plain relative path", "a/b.c");
  constexpr std::size_t kLongest = 255;
  if (path.size() > kLongest) place.refuse(quoted, "255 letters at most");
  const std::vector<std::string> parts = split(path, '/');
  for (const std::string& part : parts) {
    if (part.empty() || part == "." || part == "..") {
      place.refuse(quoted + " must stay inside the bundle", "no '..', no absolute path");
    }
  }
  for (const std::string& part : parts) {
    const bool letters = std::all_of(
        part.begin(), part.end(), [](char letter) { return word_letter(letter) || letter == '.'; });
    if (!letters || part.front() == '.' || part.back() == '.') {
      place.refuse(quoted + " must be made of letters, digits, '_', '-' and inner dots", "a/b.c");
    }
  }
  if (lowered(path) == kManifestName) {
    place.refuse("the manifest cannot be a member of itself", "another file");
  }
}

FileRef read_file(const Json& value, const Place& place) {
  Fields fields(value, place);
  FileRef file;
  file.path = fields.text("path");
  check_member_path(file.path, fields.at("path"));
  file.sha256 = fields.sha256("sha256");
  file.bytes = fields.integer("bytes", {0, kMost});
  fields.finish();
  return file;
}

int read_island(const Json& value, const Place& place) {
  Fields fields(value, place);
  fields.text("node");
  fields.text("reason");
  if (const Json* largest = fields.find_not_null("largest")) {
    as_number(*largest, fields.at("largest"));
  }
  fields.finish();
  return 0;
}

double read_share(Fields& fields, const std::string& key) {
  const double share = fields.number(key);
  if (!(share >= 0 && share <= 1)) fields.at(key).refuse(std::to_string(share), "0 to 1");
  return share;
}

void check_typing(const Json& value, const Place& place) {
  Fields fields(value, place);
  fields.number("range_limit");
  read_share(fields, "share");
  read_list<int>(fields.required("islands"), fields.at("islands"), 0, read_island);
  fields.finish();
}

bool is_version(const std::string& text) {
  const std::vector<std::string> parts = split(text, '.');
  return parts.size() > 1 && std::all_of(parts.begin(), parts.end(), [](const std::string& part) {
           return !part.empty() && std::all_of(part.begin(), part.end(), digit);
         });
}

bool is_platform(const std::string& text) {
  const std::vector<std::string> parts = split(text, '-');
  if (parts.size() != 2 || parts[0].empty() || parts[1].empty()) return false;
  const auto plain = [](char letter) { return lower(letter) || digit(letter); };
  return std::all_of(parts[0].begin(), parts[0].end(), plain) &&
         std::all_of(parts[1].begin(), parts[1].end(),
                     [plain](char letter) { return plain(letter) || letter == '_'; });
}

std::string joined(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (const std::int64_t number : numbers) {
    text += (text.empty() ? "" : ",") + std::to_string(number);
  }
  return "[" + text + "]";
}

Profile read_profile(Fields& fields) {
  const Json& value = fields.required("profile");
  const Place place = fields.at("profile");
  if (value.type != Json::Type::kObject) place.refuse(value, "an object");
  Profile profile;
  for (const JsonMember& member : value.members) {
    const Place where = place.below(member.key);
    const auto sizes = read_list<std::int64_t>(
        member.value, where, 0,
        [](const Json& item, const Place& at) { return as_integer(item, at); });
    if (sizes.size() != 3 || sizes[0] < 1 || !std::is_sorted(sizes.begin(), sizes.end())) {
      where.refuse(member.value, "three sizes that rise from 1 or more");
    }
    profile[member.key] = {sizes[0], sizes[1], sizes[2]};
  }
  return profile;
}

// The canonical JSON of what decides about an engine: sorted keys, no blanks, ASCII.
std::string key_parts(const EngineInfo& engine, const std::string& workspace) {
  std::string profile;
  for (const auto& [axis, sizes] : engine.profile) {
    profile += (profile.empty() ? "" : ",") + quote_json(axis) + ":" +
               joined({sizes.begin(), sizes.end()});
  }
  return R"({"compute_capabilities":)" + joined(engine.compute_capabilities) + R"(,"family":")" +
         engine.family + R"(","graph_sha256":")" + engine.graph_sha256 + R"(","platform":")" +
         engine.platform + R"(","profile":{)" + profile + R"(},"version":")" + engine.version +
         R"(","workspace_bytes":)" + workspace + "}";
}

EngineInfo read_engine(const Json& value, const Place& place) {
  Fields fields(value, place);
  EngineInfo engine;
  engine.family = fields.word("family", {"tensorrt", "tensorrt_rtx"});
  engine.version = fields.text("version");
  if (!is_version(engine.version)) {
    fields.at("version").refuse("'" + engine.version + "'", "1.2 or 1.2.3.4");
  }
  engine.platform = fields.text("platform");
  if (!is_platform(engine.platform)) {
    fields.at("platform").refuse("'" + engine.platform + "'", "such as linux-x86_64");
  }
  engine.compute_capabilities = read_list<std::int64_t>(
      fields.required("compute_capabilities"), fields.at("compute_capabilities"), 1,
      [](const Json& item, const Place& at) { return as_integer(item, at); });
  engine.graph_sha256 = fields.sha256("graph_sha256");
  engine.profile = read_profile(fields);
  std::string workspace = "null";
  if (const Json* bytes = fields.find_not_null("workspace_bytes")) {
    workspace = std::to_string(as_integer(*bytes, fields.at("workspace_bytes"), {1, kMost}));
  }
  if (const Json* bytes = fields.find_not_null("activation_bytes")) {
    as_integer(*bytes, fields.at("activation_bytes"), {0, kMost});
  }
  if (const Json* file = fields.find_not_null("log")) {
    engine.log = read_file(*file, fields.at("log"));
  }
  fields.integer("layers", {1, INT32_MAX});
  read_share(fields, "low_share");
  if (!(fields.number("build_seconds") >= 0)) {
    fields.at("build_seconds").refuse("a negative number", "0 or more");
  }
  const std::string key = fields.sha256("key");
  fields.finish();
  const std::string parts = key_parts(engine, workspace);
  if (sha256(parts.data(), parts.size()) != key) {
    fields.at("key").refuse(key, "the hash of what the key was made of");
  }
  return engine;
}

Artefact read_artefact(const Json& value, const Place& place) {
  Fields fields(value, place);
  Artefact artefact;
  artefact.kind = fields.word("kind", {"onnx", "weights", "engine"});
  artefact.precision = fields.word("precision", kPrecisions);
  artefact.file = read_file(fields.required("file"), fields.at("file"));
  if (const Json* data = fields.find_not_null("external_data")) {
    artefact.external_data = read_file(*data, fields.at("external_data"));
  }
  const Json* lowering = fields.find_not_null("lowering");
  if (lowering != nullptr) as_text(*lowering, fields.at("lowering"));
  const Json* opset = fields.find_not_null("opset");
  if (opset != nullptr) as_integer(*opset, fields.at("opset"));
  if (const Json* typing = fields.find_not_null("typing")) {
    check_typing(*typing, fields.at("typing"));
  }
  const Json* engine = fields.find_not_null("engine");
  if (engine != nullptr) artefact.engine = read_engine(*engine, fields.at("engine"));
  fields.finish();
  if ((artefact.kind == "onnx") != (lowering != nullptr && opset != nullptr)) {
    place.refuse("kind '" + artefact.kind + "'",
                 "lowering and opset are given for graphs, and only for them");
  }
  if ((artefact.kind == "engine") != (engine != nullptr)) {
    place.refuse("kind '" + artefact.kind + "'", "engine is given for engines, and only for them");
  }
  return artefact;
}

GoldenCase read_golden(const Json& value, const Place& place) {
  Fields fields(value, place);
  GoldenCase golden;
  golden.name = fields.text("name");
  golden.slices = read_file(fields.required("slices"), fields.at("slices"));
  golden.labels = read_file(fields.required("labels"), fields.at("labels"));
  golden.logits = read_file(fields.required("logits"), fields.at("logits"));
  fields.finish();
  return golden;
}

void check_provenance(const Json& value, const Place& place) {
  Fields fields(value, place);
  fields.text("created");
  fields.text("command");
  fields.texts("versions");
  fields.texts("sources");
  fields.sha256("encoder_sha256");
  if (const Json* weights = fields.find_not_null("encoder_weights")) {
    Fields known(*weights, fields.at("encoder_weights"));
    known.text("name", 1);
    known.sha256("sha256");
    known.text("origin");
    known.text("licence");
    known.finish();
  }
  fields.finish();
}

void check_version(Fields& fields, const std::string& name) {
  const Place place = fields.at("schema_version");
  const Json& version = fields.required("schema_version");
  if (version.type == Json::Type::kInteger && version.number > double{kSchemaVersion}) {
    throw Error(AUTOSAM_BAD_BUNDLE,
                Message("'" + name + "' was made by a newer autosam-deploy")
                    .got("schema version " + version.text)
                    .expected(std::to_string(kSchemaVersion))
                    .todo("use a newer libautosam or export again with this version"));
  }
  as_integer(version, place, {1, kSchemaVersion});
}

void check_consistent(const Manifest& manifest, const Place& place) {
  if (manifest.inputs != std::vector<TensorSpec>{ModelSpec::input_tensor()}) {
    place.below("inputs").refuse("inputs contradict the model", ModelSpec::input_tensor().shown());
  }
  if (manifest.outputs != manifest.model.output_tensors()) {
    place.below("outputs").refuse("outputs contradict the model",
                                  manifest.model.output_tensors().back().shown());
  }
  std::set<std::string> paths;
  for (const FileRef* file : manifest.files()) {
    // Without case: two such files are one on Windows and macOS.
    if (!paths.insert(lowered(file->path)).second) {
      place.refuse("two entries name the same file '" + file->path + "'", "one entry a file");
    }
  }
}

}  // namespace

std::vector<const FileRef*> Manifest::files() const {
  std::vector<const FileRef*> found{&parity};
  for (const Artefact& artefact : artefacts) {
    found.push_back(&artefact.file);
    if (artefact.external_data) found.push_back(&*artefact.external_data);
    if (artefact.engine && artefact.engine->log) found.push_back(&*artefact.engine->log);
  }
  for (const GoldenCase& one : golden) {
    found.insert(found.end(), {&one.slices, &one.labels, &one.logits});
  }
  return found;
}

const Artefact* Manifest::find(const std::string& kind, const std::string& precision) const {
  for (const Artefact& artefact : artefacts) {
    if (artefact.kind == kind && artefact.precision == precision) return &artefact;
  }
  return nullptr;
}

Manifest parse_manifest(std::string_view text, const std::string& name) {
  const Json json = parse_json(text, name);
  if (json.type != Json::Type::kObject) {
    throw Error(AUTOSAM_BAD_BUNDLE,
                Message("'" + name + "' is no manifest").got(json.shown()).expected("an object"));
  }
  const Place place{name, ""};
  Fields fields(json, place);
  check_version(fields, name);
  Manifest manifest;
  manifest.name = fields.text("name", 1);
  manifest.trained = fields.boolean("trained");
  manifest.intended_use = fields.text("intended_use");
  manifest.model = read_model(fields.required("model"), fields.at("model"));
  manifest.inputs =
      read_list<TensorSpec>(fields.required("inputs"), fields.at("inputs"), 0, read_tensor);
  manifest.outputs =
      read_list<TensorSpec>(fields.required("outputs"), fields.at("outputs"), 0, read_tensor);
  manifest.artefacts =
      read_list<Artefact>(fields.required("artefacts"), fields.at("artefacts"), 1, read_artefact);
  manifest.golden =
      read_list<GoldenCase>(fields.required("golden"), fields.at("golden"), 1, read_golden);
  manifest.parity = read_file(fields.required("parity"), fields.at("parity"));
  check_provenance(fields.required("provenance"), fields.at("provenance"));
  fields.finish();
  check_consistent(manifest, place);
  return manifest;
}

}  // namespace autosam::core
