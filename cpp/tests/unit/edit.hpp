// Changing a JSON tree by dotted paths, and writing it again with the spelling of its numbers.
#pragma once

#include <json.hpp>
#include <stdexcept>
#include <string>

namespace autosam_test {

using autosam::core::Json;

inline std::string dump(const Json& json) {
  std::string text;
  switch (json.type) {
    case Json::Type::kNull:
      return "null";
    case Json::Type::kBoolean:
      return json.boolean ? "true" : "false";
    case Json::Type::kInteger:
    case Json::Type::kNumber:
      return json.text;
    case Json::Type::kText:
      return autosam::core::quote_json(json.text);
    case Json::Type::kArray:
      for (const Json& item : json.items) text += (text.empty() ? "" : ",") + dump(item);
      return "[" + text + "]";
    case Json::Type::kObject:
      for (const auto& member : json.members) {
        text += (text.empty() ? "" : ",") + autosam::core::quote_json(member.key) + ":" +
                dump(member.value);
      }
      return "{" + text + "}";
  }
  return text;
}

// The value at a path; the last key is added to an object that lacks it.
inline Json& at(Json& root, const std::string& path) {
  Json* json = &root;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    begin = end + 1;
    if (json->type == Json::Type::kArray) {
      json = &json->items.at(std::stoul(part));
      continue;
    }
    Json* next = nullptr;
    for (auto& member : json->members) {
      if (member.key == part) next = &member.value;
    }
    if (next == nullptr) {
      if (end != path.size()) throw std::out_of_range(path);
      json->members.push_back({part, {}});
      next = &json->members.back().value;
    }
    json = next;
  }
  return *json;
}

inline void put(Json& root, const std::string& path, const Json& value) {
  at(root, path) = value;
}

inline void drop(Json& root, const std::string& path) {
  const std::size_t dot = path.rfind('.');
  Json& parent = dot == std::string::npos ? root : at(root, path.substr(0, dot));
  const std::string key = path.substr(dot == std::string::npos ? 0 : dot + 1);
  for (std::size_t i = 0; i < parent.members.size(); ++i) {
    if (parent.members[i].key == key) {
      parent.members.erase(parent.members.begin() + static_cast<std::ptrdiff_t>(i));
      return;
    }
  }
  throw std::out_of_range(path);
}

}  // namespace autosam_test
