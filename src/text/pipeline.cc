#include "text/pipeline.h"

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "io/checked_json.h"
#include "text/base64.h"
#include "text/byte_level.h"
#include "text/character_classes.h"
#include "text/charsmap.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string type_of(const Json& json, const std::string& source) { return json_text(json, "type", source); }

constexpr size_t kMaxSteps = 64;          ///< of a normalizer, a pre-tokenizer or a decoder, nested ones counted
constexpr double kMaxReplaceGrowth = 64;  ///< of all Replace steps together, by their lengths
constexpr size_t kMaxPrepend = 1024;      ///< bytes

/// What a chain of steps has used up while it's made.
struct ChainLimits {
  size_t steps = 0, prepended = 0;
  double growth = 1;

  void step(const char* kind, const std::string& source) {
    if (++steps > kMaxSteps) fail_user("{}: the {} has more than {} steps; flexgen refuses that", source, kind, kMaxSteps);
  }
  void replace(size_t from, size_t to, const char* kind, const std::string& source) {
    growth *= std::max(1.0, static_cast<double>(to) / static_cast<double>(std::max<size_t>(1, from)));
    if (growth > kMaxReplaceGrowth)
      fail_user("{}: the Replace steps of the {} make a text up to {:.3g} times longer; flexgen allows {}", source, kind, growth, kMaxReplaceGrowth);
  }
  void prepend(size_t bytes, const std::string& source) {
    if ((prepended += bytes) > kMaxPrepend) fail_user("{}: the normalizer puts {} bytes before every text; flexgen allows {}", source, prepended, kMaxPrepend);
  }
};

[[noreturn]] void fail_growth(const std::string& source, size_t limit) {
  fail_user("{}: its steps make a text longer than {} bytes, which is {} times the text and {} KiB; shorten the text, or fetch the file again", source, limit,
            GrowthLimit::kFactor, GrowthLimit::kBase / 1024);
}

/// `from` is not empty.
std::string replace_all(const std::string& text, const std::string& from, const std::string& to, size_t limit, const std::string& source) {
  std::string out;
  size_t at = 0;
  for (size_t found; (found = text.find(from, at)) != std::string::npos; at = found + from.size()) {
    out.append(text, at, found - at);
    out += to;
    if (out.size() > limit) fail_growth(source, limit);
  }
  return out.append(text, at);
}

std::string replace_matches(const std::string& text, const Regex& regex, const std::string& to, size_t limit, const std::string& source) {
  std::string out;
  size_t at = 0;
  regex.for_each(text, [&](size_t begin, size_t end) {
    out.append(text, at, begin - at).append(to);
    if (out.size() > limit) fail_growth(source, limit);
    at = end;
  });
  return out.append(text, at);
}

/// The regex of a {"String": ...} or {"Regex": ...} pattern.
std::shared_ptr<Regex> pattern_of(const Json& json, const std::string& source) {
  const Json& pattern = json_field(json, "pattern", source);
  if (pattern.is_object() && pattern.contains("String")) return std::make_shared<Regex>(escape_regex(json_text(pattern, "String", source)), source);
  if (pattern.is_object() && pattern.contains("Regex")) return std::make_shared<Regex>(json_text(pattern, "Regex", source), source);
  fail_user("{}: a pattern is neither a String nor a Regex", source);
}

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior behavior_of(const Json& json, const std::string& source) {
  std::string name = json_text(json, "behavior", source);
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  fail_user("{}: the split behavior '{}' is not supported", source, printable(name));
}

/// Cuts one piece at the matches of a regex.
std::vector<TextPiece> split(const TextPiece& piece, const Regex& regex, Behavior behavior, bool invert) {
  struct Part {
    size_t begin, end;
    bool match;
  };
  std::vector<Part> parts;
  size_t at = 0;
  regex.for_each(piece.text, [&](size_t begin, size_t end) {
    if (begin > at) parts.push_back({at, begin, invert});
    parts.push_back({begin, end, !invert});
    at = end;
  });
  if (at < piece.text.size()) parts.push_back({at, piece.text.size(), invert});

  std::vector<Part> kept;
  bool previous_match = false, open = false;  // open: the last part wants the next one
  for (const Part& part : parts) {
    bool join = false;
    switch (behavior) {
      case Behavior::kRemoved:
        if (part.match) continue;
        break;
      case Behavior::kIsolated: break;
      case Behavior::kMergedWithPrevious: join = part.match && !previous_match && !kept.empty(); break;
      case Behavior::kMergedWithNext: join = open && !part.match; break;
      case Behavior::kContiguous: join = !kept.empty() && part.match == previous_match; break;
    }
    if (join) kept.back().end = part.end;
    else kept.push_back(part);
    previous_match = part.match;
    open = part.match;
  }
  std::vector<TextPiece> pieces;
  for (const Part& part : kept)
    if (part.end > part.begin)  // an empty match cuts, and leaves nothing of its own
      pieces.push_back({piece.text.substr(part.begin, part.end - part.begin), piece.first && part.begin == 0});
  return pieces;
}

PreTokenizer splitter(std::shared_ptr<Regex> regex, Behavior behavior, bool invert) {
  return [regex, behavior, invert](std::vector<TextPiece> pieces, size_t) {
    std::vector<TextPiece> result;
    for (const TextPiece& piece : pieces)
      for (TextPiece& part : split(piece, *regex, behavior, invert)) result.push_back(std::move(part));
    return result;
  };
}

PreTokenizer byte_level(const Json& json, const std::string& source) {
  bool add_space = json_flag(json, "add_prefix_space", true), use_regex = json_flag(json, "use_regex", true);
  PreTokenizer cut;
  if (use_regex) cut = splitter(std::make_shared<Regex>(kGpt2Pattern, source), Behavior::kIsolated, false);
  return [add_space, cut, source](std::vector<TextPiece> pieces, size_t limit) {
    for (TextPiece& piece : pieces)
      if (add_space && !piece.text.empty() && piece.text[0] != ' ') piece.text.insert(0, " ");
    if (cut) pieces = cut(std::move(pieces), limit);
    size_t bytes = 0;
    for (TextPiece& piece : pieces) {
      piece.text = bytes_to_alphabet(piece.text);
      if ((bytes += piece.text.size()) > limit) fail_growth(source, limit);
    }
    return pieces;
  };
}

/// One character, as PyPI tokenizers has it.
std::string metaspace_mark(const Json& json, const std::string& source) {
  std::string mark = json_text(json, "replacement", source);
  if (mark.empty() || utf8_length(mark, 0) != mark.size())
    fail_user("{}: the field 'replacement' of Metaspace is '{}', not one character", source, printable(mark));
  return mark;
}

PreTokenizer metaspace(const Json& json, const std::string& source) {
  std::string mark = metaspace_mark(json, source);
  std::string scheme = json.contains("prepend_scheme")             ? json_text(json, "prepend_scheme", source)
                       : json_flag(json, "add_prefix_space", true) ? "always"
                                                                   : "never";
  if (scheme != "always" && scheme != "never" && scheme != "first")
    fail_user("{}: the Metaspace prepend_scheme '{}' is not supported", source, printable(scheme));
  PreTokenizer cut;
  if (json_flag(json, "split", true)) cut = splitter(std::make_shared<Regex>(escape_regex(mark), source), Behavior::kMergedWithNext, false);
  return [mark, scheme, cut, source](std::vector<TextPiece> pieces, size_t limit) {
    size_t bytes = 0;
    for (TextPiece& piece : pieces) {
      piece.text = replace_all(piece.text, " ", mark, limit, source);
      bool wanted = scheme == "always" || (scheme == "first" && piece.first);
      if (wanted && !piece.text.starts_with(mark)) piece.text.insert(0, mark);
      if ((bytes += piece.text.size()) > limit) fail_growth(source, limit);
    }
    return cut ? cut(std::move(pieces), limit) : pieces;
  };
}

/// "<0xE4>" -> 0xE4, -1 for anything else.
int byte_of_token(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (size_t i = 3; i < 5; ++i) {
    char c = token[i];
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return -1;
    value = 16 * value + digit;
  }
  return value;
}

std::vector<std::string> decode_byte_fallback(std::vector<std::string> tokens) {
  std::vector<std::string> result;
  std::string bytes;
  auto flush = [&] {
    if (bytes.empty()) return;
    bool valid = true;
    for (size_t at = 0; at < bytes.size() && valid;) {
      size_t length = utf8_length(bytes, at);
      valid = length > 0;
      at += length;
    }
    if (valid) result.push_back(bytes);
    else result.insert(result.end(), bytes.size(), "\xef\xbf\xbd");
    bytes.clear();
  };
  for (std::string& token : tokens) {
    int byte = byte_of_token(token);
    if (byte >= 0) {
      bytes += static_cast<char>(byte);
      continue;
    }
    flush();
    result.push_back(std::move(token));
  }
  flush();
  return result;
}

std::string joined(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) out += part;
  return out;
}

}  // namespace

std::string shown(const Json& json) {
  // dump() recurses and may be long.
  return json.is_structured() ? std::string(json.type_name()) : printable(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

const Json& json_field(const Json& json, const char* name, const std::string& source) {
  if (!json.is_object() || !json.contains(name)) fail_user("{}: the field '{}' is missing; fetch the file again", source, name);
  return json[name];
}

std::string json_text(const Json& json, const char* name, const std::string& source) {
  const Json& value = json_field(json, name, source);
  if (!value.is_string()) fail_user("{}: the field '{}' is {}, not a text", source, name, shown(value));
  return value.get<std::string>();
}

bool json_flag(const Json& json, const char* name, bool fallback) {
  auto found = json.find(name);
  return found != json.end() && found->is_boolean() ? found->get<bool>() : fallback;
}

namespace {

/// A flag that must be there.
bool needed_flag(const Json& json, const char* name, const std::string& source) {
  const Json& value = json_field(json, name, source);
  if (!value.is_boolean()) fail_user("{}: the field '{}' is {}, not true or false", source, name, shown(value));
  return value.get<bool>();
}

/// One Replace step; the regex is null for a plain text.
struct Replacement {
  std::string from, to, source;
  std::shared_ptr<Regex> regex;

  Replacement(const Json& json, const char* kind, ChainLimits& limits, const std::string& file) : to(json_text(json, "content", file)), source(file) {
    const Json& pattern = json_field(json, "pattern", file);
    if (pattern.is_object() && pattern.contains("String")) {
      from = json_text(pattern, "String", file);
      if (from.empty()) fail_user("{}: a Replace step of the {} has an empty pattern; flexgen refuses that", file, kind);
    } else {
      regex = pattern_of(json, file);
    }
    limits.replace(from.size(), to.size(), kind, file);
  }
  std::string operator()(const std::string& text, size_t limit) const {
    return regex ? replace_matches(text, *regex, to, limit, source) : replace_all(text, from, to, limit, source);
  }
};

Normalizer normalizer_step(const Json& json, ChainLimits& limits, const std::string& source) {
  if (json.is_null()) return [](std::string text, size_t) { return text; };
  limits.step("normalizer", source);
  const std::string type = type_of(json, source);
  if (type == "Sequence") {
    std::vector<Normalizer> steps;
    for (const Json& step : json_list(json, "normalizers", source)) steps.push_back(normalizer_step(step, limits, source));
    return [steps, source](std::string text, size_t limit) {
      for (const Normalizer& step : steps) {
        text = step(std::move(text), limit);
        if (text.size() > limit) fail_growth(source, limit);
      }
      return text;
    };
  }
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    bool compose = type.back() == 'C', compat = type.size() == 4;
    return [compose, compat](std::string text, size_t) { return normalize_unicode(text, compose, compat); };
  }
  if (type == "Precompiled") {
    const std::optional<std::string> bytes = base64_bytes(json_text(json, "precompiled_charsmap", source));
    if (!bytes) fail_user("{}: the field 'precompiled_charsmap' is no Base64; fetch the file again", source);
    const auto map = std::make_shared<Charsmap>(*bytes, source);
    return [map, source](std::string text, size_t limit) {
      std::optional<std::string> out = map->apply(text, limit);
      if (!out) fail_growth(source, limit);
      return *std::move(out);
    };
  }
  if (type == "Lowercase") return [](std::string text, size_t) { return lower_case(text); };
  if (type == "Strip") {
    const bool left = needed_flag(json, "strip_left", source), right = needed_flag(json, "strip_right", source);
    return [left, right](std::string text, size_t) { return strip_spaces(text, left, right); };
  }
  if (type == "Prepend") {
    std::string prefix = json_text(json, "prepend", source);
    limits.prepend(prefix.size(), source);
    return [prefix](std::string text, size_t) { return text.empty() ? text : prefix + text; };
  }
  if (type == "Replace") {
    Replacement replace(json, "normalizer", limits, source);
    return [replace](std::string text, size_t limit) { return replace(text, limit); };
  }
  fail_user("{}: the normalizer '{}' is not supported", source, printable(type));
}

PreTokenizer pre_tokenizer_step(const Json& json, ChainLimits& limits, const std::string& source) {
  if (json.is_null()) return [](std::vector<TextPiece> pieces, size_t) { return pieces; };
  limits.step("pre-tokenizer", source);
  const std::string type = type_of(json, source);
  if (type == "Sequence") {
    std::vector<PreTokenizer> steps;
    for (const Json& step : json_list(json, "pretokenizers", source)) steps.push_back(pre_tokenizer_step(step, limits, source));
    return [steps](std::vector<TextPiece> pieces, size_t limit) {
      for (const PreTokenizer& step : steps) pieces = step(std::move(pieces), limit);
      return pieces;
    };
  }
  if (type == "ByteLevel") return byte_level(json, source);
  if (type == "Metaspace") return metaspace(json, source);
  if (type == "Split") return splitter(pattern_of(json, source), behavior_of(json, source), json_flag(json, "invert", false));
  if (type == "WhitespaceSplit") return splitter(std::make_shared<Regex>(kSpacePattern, source), Behavior::kRemoved, false);
  if (type == "Whitespace") return splitter(std::make_shared<Regex>(kWordPattern, source), Behavior::kRemoved, true);
  if (type == "Punctuation") {
    const Behavior behavior = json.contains("behavior") ? behavior_of(json, source) : Behavior::kIsolated;
    return splitter(std::make_shared<Regex>(kPunctuationPattern, source), behavior, false);
  }
  if (type == "Digits") {
    bool each = json_flag(json, "individual_digits", false);
    return splitter(std::make_shared<Regex>(R"(\p{N})", source), each ? Behavior::kIsolated : Behavior::kContiguous, false);
  }
  fail_user("{}: the pre-tokenizer '{}' is not supported", source, printable(type));
}

TokenDecoder strip_decoder(const Json& json, const std::string& source) {
  std::string content = json_text(json, "content", source);
  auto count = [&](const char* name) {
    const Json& value = json_field(json, name, source);
    if (!value.is_number_integer() || value.get<int64_t>() < 0) fail_user("{}: the field '{}' of Strip is no count", source, name);
    return value.get<size_t>();
  };
  size_t start = count("start"), stop = count("stop");
  if (content.empty()) fail_user("{}: Strip has no content", source);
  return [content, start, stop](std::vector<std::string> tokens) {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (size_t i = 0; i < start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
      for (size_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
      token = std::string(rest);
    }
    return tokens;
  };
}

TokenDecoder decoder_step(const Json& json, ChainLimits& limits, const std::string& source) {
  constexpr size_t kUnlimited = std::string::npos;  // the lengths of the Replace steps bound it
  limits.step("decoder", source);
  const std::string type = type_of(json, source);
  if (type == "Sequence") {
    std::vector<TokenDecoder> steps;
    for (const Json& step : json_list(json, "decoders", source)) steps.push_back(decoder_step(step, limits, source));
    return [steps](std::vector<std::string> tokens) {
      for (const TokenDecoder& step : steps) tokens = step(std::move(tokens));
      return tokens;
    };
  }
  if (type == "ByteLevel") {
    limits.replace(1, 3, "decoder", source);  // what isn't UTF-8 becomes U+FFFD
    return [](std::vector<std::string> tokens) {
      std::string bytes;
      for (const std::string& token : tokens) bytes += alphabet_to_bytes(token).value_or(token);
      return std::vector<std::string>{sanitize_utf8(bytes)};
    };
  }
  if (type == "ByteFallback") return decode_byte_fallback;
  if (type == "Fuse") return [](std::vector<std::string> tokens) { return std::vector<std::string>{joined(tokens)}; };
  if (type == "Replace") {
    Replacement replace(json, "decoder", limits, source);
    return [replace](std::vector<std::string> tokens) {
      for (std::string& token : tokens) token = replace(token, kUnlimited);
      return tokens;
    };
  }
  if (type == "Strip") return strip_decoder(json, source);
  if (type == "Metaspace") {
    std::string mark = metaspace_mark(json, source);
    std::string scheme = json.contains("prepend_scheme") ? json_text(json, "prepend_scheme", source) : "always";
    return [mark, scheme, source](std::vector<std::string> tokens) {
      for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = replace_all(tokens[i], mark, " ", kUnlimited, source);
        if (i == 0 && scheme != "never" && tokens[i].starts_with(' ')) tokens[i].erase(0, 1);
      }
      return tokens;
    };
  }
  fail_user("{}: the decoder '{}' is not supported", source, printable(type));
}

}  // namespace

const Json& json_list(const Json& json, const char* name, const std::string& source) {
  const Json& value = json_field(json, name, source);
  if (!value.is_array()) fail_user("{}: the field '{}' is no list; fetch the file again", source, name);
  return value;
}

void check_chain_limits(const Json& json, const char* kind, const std::string& source) {
  ChainLimits limits;
  std::vector<const Json*> open{&json};
  while (!open.empty()) {
    const Json& step = *open.back();
    open.pop_back();
    if (!step.is_object()) continue;
    limits.step(kind, source);
    auto text_of = [&](const Json& value, const char* name) {
      auto found = value.is_object() ? value.find(name) : value.end();
      return found != value.end() && found->is_string() ? found->get<std::string>() : std::string();
    };
    limits.prepend(text_of(step, "prepend").size(), source);
    if (step.contains("pattern")) limits.replace(text_of(step["pattern"], "String").size(), text_of(step, "content").size(), kind, source);
    for (const char* list : {"normalizers", "pretokenizers", "decoders"})
      if (step.contains(list) && step[list].is_array())
        for (const Json& part : step[list]) open.push_back(&part);
  }
}

bool any_step(const Json& chain, const char* list, const std::function<bool(const Json& step)>& is_meant) {
  std::vector<const Json*> open{&chain};
  while (!open.empty()) {
    const Json& step = *open.back();
    open.pop_back();
    if (!step.is_object()) continue;
    if (is_meant(step)) return true;
    if (step.contains(list) && step[list].is_array())
      for (const Json& part : step[list]) open.push_back(&part);
  }
  return false;
}

void refuse_dropped_start(const Json& normalizer, const Json& pre_tokenizer, const std::string& source) {
  if (!any_step(pre_tokenizer, "pretokenizers",
                [](const Json& step) { return step.value("type", Json()) == "Metaspace" && step.value("prepend_scheme", Json()) == "first"; }))
    return;
  if (any_step(normalizer, "normalizers", [](const Json& step) {
        const Json type = step.value("type", Json());
        return type == "Precompiled" || (type == "Strip" && step.value("strip_left", Json()) != false) ||
               (type == "Replace" && step.value("content", Json()) == "");
      }))
    fail_user(
        "{}: Metaspace with prepend_scheme 'first' puts no mark before a text whose start the normalizer (Strip, Precompiled, Replace by nothing) has dropped, which flexgen does not follow; "
        "set prepend_scheme to 'always' if the model was trained so",
        source);
}

Normalizer make_normalizer(const Json& json, const std::string& source) {
  ChainLimits limits;
  return [step = normalizer_step(json, limits, source), source](std::string text, size_t limit) {
    std::string out = step(std::move(text), limit);
    if (out.size() > limit) fail_growth(source, limit);
    return out;
  };
}

PreTokenizer make_pre_tokenizer(const Json& json, const std::string& source) {
  ChainLimits limits;
  return pre_tokenizer_step(json, limits, source);
}

TokenDecoder make_decoder(const Json& json, const std::string& source) {
  if (json.is_null())
    return [](std::vector<std::string> tokens) {
      for (size_t i = 1; i < tokens.size(); ++i) tokens[i].insert(0, " ");
      return tokens;
    };
  ChainLimits limits;
  return decoder_step(json, limits, source);
}

}  // namespace flexgen
