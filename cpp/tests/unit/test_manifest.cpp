// The list of bad manifests that the Python reader is tested with, and what JSON alone cannot say.
#include <doctest/doctest.h>

#include <json.hpp>
#include <manifest.hpp>
#include <map>
#include <string>

#include "../helpers.hpp"
#include "checks.hpp"
#include "edit.hpp"

using autosam::core::Json;
using autosam::core::Manifest;
using autosam::core::parse_json;
using autosam::core::parse_manifest;
using autosam_test::check_fails;
using autosam_test::dump;
using autosam_test::put;

namespace {

std::string good_text() {
  return autosam_test::read(autosam_test::data() / "threshold.autosam" / "manifest.json");
}

// A good manifest with one value replaced by some JSON.
std::string with(const std::string& path, const std::string& value) {
  Json json = parse_json(good_text(), "good");
  put(json, path, parse_json(value, "value"));
  return dump(json);
}

const std::string kEngine = R"({"family": "tensorrt_rtx", "version": "1.7.1.2",
  "platform": "linux-x86_64", "compute_capabilities": [89, 120],
  "graph_sha256": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
  "profile": {"H": [32, 256, 512], "B": [1, 2, 8]}, "workspace_bytes": 4294967296,
  "activation_bytes": 0, "layers": 12, "low_share": 0.5, "build_seconds": 1,
  "key": "KEY"})";

// What EngineInfo.engine_key() of the Python package gives for it.
const std::string kKey = "5249f29ef4bdb0295e78b8766452335ce3a276b1c963ba4450548629e1921ff8";

std::string engine(const std::string& key) {
  std::string text = kEngine;
  return text.replace(text.find("KEY"), 3, key);
}

Json engine_artefact(const std::string& engine_text) {
  return parse_json(R"({"kind": "engine", "precision": "fp16", "file": {"path": "e.engine",
    "sha256": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "bytes": 1},
    "engine": )" + engine_text +
                        "}",
                    "artefact");
}

std::string with_engine(const std::string& engine_text) {
  Json json = parse_json(good_text(), "good");
  Json artefacts = autosam_test::at(json, "artefacts");
  artefacts.items.push_back(engine_artefact(engine_text));
  put(json, "artefacts", artefacts);
  return dump(json);
}

}  // namespace

TEST_CASE("a good manifest") {
  const Manifest manifest = parse_manifest(good_text());
  CHECK(manifest.name == "threshold");
  CHECK_FALSE(manifest.trained);
  CHECK(manifest.model.num_classes == 3);
  CHECK(manifest.model.classes[2].name == "bone");
  CHECK(manifest.model.slice_axis == "k");
  CHECK(manifest.model.image_size[0] == 256);
  CHECK(manifest.files().size() == 10);
  REQUIRE(manifest.find("onnx", "fp16") != nullptr);
  CHECK(manifest.find("onnx", "fp16")->file.path == "model.fp16.onnx");
  CHECK(manifest.find("onnx", "bf16") == nullptr);
  CHECK(manifest.inputs[0].shown() == "float32 slices (B, 1, H, W)");
}

TEST_CASE("every entry of the shared list of bad manifests is refused for its reason") {
  // A JSON reader that is told of half a character cannot say more than that it is no JSON.
  const std::map<std::string, std::string> other_reasons{{"lone-surrogate", "is no JSON"}};
  const std::string surrogate = "\\ud800";
  const std::string mark = "@half a character@";
  std::string list = autosam_test::read(AUTOSAM_BAD_MANIFESTS);
  for (std::size_t at = 0; (at = list.find(surrogate, at)) != std::string::npos;) {
    list.replace(at, surrogate.size(), mark);
  }
  int count = 0;
  for (const Json& entry : parse_json(list, "bad_manifests.json").items) {
    Json good = parse_json(good_text(), "good");
    std::string text;
    std::string name;
    std::string expected;
    for (const auto& [key, value] : entry.members) {
      if (key == "name") name = value.text;
      if (key == "message") expected = value.text;
      if (key == "text") text = value.text;
      if (key == "set") {
        for (const auto& [path, replaced] : value.members) put(good, path, replaced);
      }
      if (key == "delete") {
        for (const Json& path : value.items) autosam_test::drop(good, path.text);
      }
    }
    CAPTURE(name);
    const bool given = text.empty() && name != "empty-text";
    if (given) text = dump(good);
    if (const std::size_t at = text.find(mark); at != std::string::npos) {
      text.replace(at, mark.size(), surrogate);
    }
    const auto other = other_reasons.find(name);
    if (other != other_reasons.end()) expected = other->second;
    check_fails([&] { parse_manifest(text); }, AUTOSAM_BAD_BUNDLE, expected);
    ++count;
  }
  CHECK(count > 50);
}

TEST_CASE("no coercion") {
  const std::map<std::string, const char*> wrong{{"model.encoder.image_size", "[256.0, 256]"},
                                                 {"model.encoder.image_size", "[256]"},
                                                 {"model.encoder.embed_dim", "true"},
                                                 {"model.encoder.embed_dim", "0"},
                                                 {"model.encoder.mlp_ratio", "\"4\""},
                                                 {"model.encoder.mlp_ratio", "0"},
                                                 {"model.encoder.name", "\"a\\n\""},
                                                 {"model.encoder.name", "\"Vit\""},
                                                 {"model.encoder.global_attn_indexes", "[1]"},
                                                 {"model.encoder.num_heads", "3"},
                                                 {"model.head.num_classes", "256"},
                                                 {"model.head.num_classes", "1"},
                                                 {"model.head.final_relu", "1"},
                                                 {"model.head.embed_dim", "16"},
                                                 {"model.preprocess.pixel_mean", "[1, 2, 3]"},
                                                 {"model.preprocess.intensity", "\"window\""},
                                                 {"model.preprocess.window_width", "1"},
                                                 {"model.preprocess.resize", "null"},
                                                 {"model.outputs", "[]"},
                                                 {"model.outputs", R"(["logits", "labels"])"},
                                                 {"inputs", "[]"},
                                                 {"inputs.0.shape.1", "1.0"},
                                                 {"intended_use", "null"},
                                                 {"name", "\"\""},
                                                 {"provenance.versions", R"({"a": 1})"},
                                                 {"provenance.encoder_sha256", "\"0\""},
                                                 {"golden.0.name", "5"},
                                                 {"artefacts.0.opset", "20.0"}};
  for (const auto& [path, value] : wrong) {
    CAPTURE(path);
    CAPTURE(value);
    check_fails([&, text = with(path, value)] { parse_manifest(text); }, AUTOSAM_BAD_BUNDLE,
                "is not valid at");
  }
}

TEST_CASE("defaults and nulls are as in Python") {
  CHECK(parse_manifest(with("artefacts.0.lowering", "null")).artefacts.size() == 3);
  CHECK(parse_manifest(with("model.preprocess", R"({"intensity": "window", "window_level": 40,
    "window_width": 400, "pixel_mean": [1, 2, 3], "pixel_std": [1, 2, 3.5]})"))
            .model.slice_axis == "auto");
  Json json = parse_json(good_text(), "good");
  for (const char* path :
       {"model.encoder.window_size", "model.encoder.patch_size", "model.encoder.mlp_ratio",
        "model.preprocess", "model.outputs", "model.head.final_relu"}) {
    autosam_test::drop(json, path);
  }
  CHECK(parse_manifest(dump(json)).model.outputs.size() == 2);
}

TEST_CASE("engines: the key is checked") {
  CHECK(parse_manifest(with_engine(engine(kKey))).artefacts.size() == 4);
  std::string logged = engine(kKey);
  logged.replace(logged.find("\"activation_bytes\": 0"), 21,
                 R"("activation_bytes": null, "log":
    {"path": "engines/e.log", "sha256": ")" +
                     std::string(64, 'a') + R"(", "bytes": 5})");
  CHECK(parse_manifest(with_engine(logged)).files().size() == 12);
  logged.replace(logged.find("engines/e.log"), 13, "../engines/eg");
  check_fails([&] { parse_manifest(with_engine(logged)); }, AUTOSAM_BAD_BUNDLE,
              "engine.log.path.*must stay inside");
  const std::string other = "0" + kKey.substr(1);
  check_fails([&] { parse_manifest(with_engine(engine(other))); }, AUTOSAM_BAD_BUNDLE,
              "engine.key.*got 0249.*expected the hash");
  const auto broken = [](const std::string& from, const std::string& to) {
    std::string text = engine(kKey);
    return text.replace(text.find(from), from.size(), to);
  };
  const std::map<std::string, std::string> wrong{{"1.7.1.2", "1."},
                                                 {"linux-x86_64", "Linux"},
                                                 {"[89, 120]", "[]"},
                                                 {"[1, 2, 8]", "[0, 2, 8]"},
                                                 {"[1, 2, 8]", "[3, 2, 8]"},
                                                 {"4294967296", "0"},
                                                 {"\"layers\": 12", "\"layers\": 0"},
                                                 {"0.5", "1.5"},
                                                 {"\"build_seconds\": 1", "\"build_seconds\": -1"}};
  for (const auto& [from, to] : wrong) {
    CAPTURE(to);
    check_fails([&, text = with_engine(broken(from, to))] { parse_manifest(text); },
                AUTOSAM_BAD_BUNDLE, "artefacts.3.engine");
  }
}
