#include "batch/input_form.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/byte_order_mark.h"
#include "base/error.h"
#include "io/checked_json.h"

namespace flexgen {
namespace {

using namespace std::string_view_literals;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
/// Part of a number, true, false, null, or what is none of JSON's.
bool is_word(char c) { return !is_space(c) && std::string_view("{}[],:\"").find(c) == std::string_view::npos; }
bool is_line_end(char c) { return c == '\r' || c == '\n'; }

std::string_view without_mark(std::string_view text) {
  text = without_byte_order_mark(text);
  return text;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  return text;
}

/// The structure of JSON, byte by byte: what is open, and whether a byte belongs to a text.
class Nesting {
 public:
  /// Whether the byte is part of a text, its quotes included.
  bool take(char c) {
    if (in_text_) {
      if (escaped_) escaped_ = false;
      else if (c == '\\') escaped_ = true;
      else if (c == '"') in_text_ = false;
      return true;
    }
    if (c == '"') return in_text_ = true;
    if (c == '{' || c == '[') ++depth_;
    if (c == '}' || c == ']') --depth_;
    return false;
  }
  int64_t depth() const { return depth_; }
  bool in_text() const { return in_text_; }

 private:
  int64_t depth_ = 0;
  bool in_text_ = false, escaped_ = false;
};

/// Where the structure ends that the text begins with; nothing if it goes on.
std::optional<size_t> end_of_value(std::string_view text) {
  Nesting nesting;
  for (size_t i = 0; i < text.size(); ++i) {
    nesting.take(text[i]);
    if (nesting.depth() == 0) return i + 1;
  }
  return std::nullopt;
}

/// Whether a line begins as a JSON object does.
bool has_object_line(std::string_view text) {
  while (!text.empty()) {
    text = trimmed(text);
    if (text.starts_with('{') && trimmed(text.substr(1)).starts_with('"')) return true;
    text.remove_prefix(std::min(text.size(), text.find_first_of("\r\n")));
  }
  return false;
}

/// Whether it is cut into lines by CR alone.
bool has_bare_returns_only(std::string_view text) {
  const size_t cr = text.find('\r');
  return text.find('\n') == std::string_view::npos && cr != std::string_view::npos && cr + 1 < text.size();
}

/// Bytes that no text has.
bool is_binary(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 && !is_space(c) && c != '\f' && c != '\v' && c != '\x1b'; });
}

/// The first line of a table: names with commas, semicolons or tabs between them.
bool begins_a_table(std::string_view text) {
  text = text.substr(0, text.find_first_of("\r\n"));
  for (const char between : {',', ';', '\t'}) {
    if (text.find(between) == std::string_view::npos) continue;
    bool names = true;
    for (size_t at = 0; names && at <= text.size();) {
      const size_t end = std::min(text.find(between, at), text.size());
      std::string_view name = text.substr(at, end - at);
      const bool quoted = name.size() > 1 && name.front() == '"' && name.back() == '"';
      if (quoted) name = name.substr(1, name.size() - 2);
      names = !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [&](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.' || (quoted && c != '"');
      });
      at = end + 1;
    }
    if (names) return true;
  }
  return false;
}

class ValueLines : public ByteSource {
 public:
  ValueLines(ByteSource& text, bool array, const std::string& path) : text_(text), array_(array), path_(path) {}

  size_t read(char* data, size_t room) override {
    while (at_ == line_.size() && !over_) {
      line_.clear();
      at_ = 0;
      const size_t got = text_.read(buffer_.data(), buffer_.size());
      if (got == 0) end();
      for (size_t i = 0; i < got; ++i, ++byte_) take(buffer_[i]);
    }
    const size_t count = line_.copy(data, room, at_);
    at_ += count;
    return count;
  }

 private:
  enum class State { kStart, kFirst, kValue, kScalar, kAfter, kNext, kOver };

  void take(char c) {
    if (byte_ < static_cast<int64_t>(kByteOrderMark.size()) && c == kByteOrderMark[static_cast<size_t>(byte_)]) return;
    if (c == '\n') ++line_number_;
    if (nesting_.in_text() || state_ == State::kValue) return take_of_value(c);
    if (state_ == State::kScalar) {
      if (!is_space(c) && c != ',' && c != ']' && c != '{' && c != '[') return line_.push_back(c);
      end_value();
    }
    if (is_space(c)) return;
    switch (state_) {
      case State::kStart:
        if (!array_) return begin_value(c);
        state_ = State::kFirst;  // '[', as the form says
        return;
      case State::kFirst:
        if (c == ']') state_ = State::kOver;
        else begin_value(c);
        return;
      case State::kNext: return begin_value(c);
      case State::kAfter:
        if (!array_) return begin_value(c);
        if (c == ',') state_ = State::kNext;
        else if (c == ']') state_ = State::kOver;
        else fail(fmt::format("there is '{}' where a comma or the end of the array must be", c));
        return;
      default: fail("there is something behind the array's end");
    }
  }
  void begin_value(char c) {
    if (c == ',' || c == ']' || c == '}' || c == ':') fail(fmt::format("there is '{}' where a request must begin", c));
    const bool structure = c == '{' || c == '[' || c == '"';
    state_ = structure ? State::kValue : State::kScalar;
    if (structure) take_of_value(c);
    else line_.push_back(c);
  }
  void take_of_value(char c) {
    const bool in_text = nesting_.take(c);
    if (in_text && is_line_end(c)) fail("a line ends within a text, which JSON does not allow");
    if (in_text || !is_space(c)) {
      // A blank between two words is all that keeps them apart: [2 3] is broken, and no [23].
      if (!in_text && had_blank_ && is_word(last_) && is_word(c)) line_.push_back(' ');
      line_.push_back(c);
      last_ = c;
    }
    had_blank_ = !in_text && is_space(c);
    if (nesting_.depth() == 0 && !nesting_.in_text()) end_value();
  }
  void end_value() {
    line_.push_back('\n');
    state_ = State::kAfter;
  }
  void end() {
    over_ = true;
    if (state_ == State::kScalar) end_value();
    const bool whole = array_ ? state_ == State::kOver : state_ == State::kAfter || state_ == State::kStart;
    if (!whole) fail(array_ ? "it ends before its array does" : "it ends within a request");
  }
  [[noreturn]] void fail(const std::string& why) const {
    fail_user("{} is {}, which is broken at line {}, byte {}: {}; mend it, or write a request a line (JSONL), where a bad one costs no other", path_,
              array_ ? "a JSON array" : "JSON over several lines a request", line_number_, byte_ + 1, why);
  }

  ByteSource& text_;
  bool array_;
  std::string path_;
  std::string buffer_ = std::string(64 << 10, '\0'), line_;
  size_t at_ = 0;
  Nesting nesting_;
  State state_ = State::kStart;
  int64_t byte_ = 0, line_number_ = 1;
  bool over_ = false;
  bool had_blank_ = false;  ///< within a value, before what comes now
  char last_ = '\0';        ///< that was taken of a value
};

class ReturnsAsLineEnds : public ByteSource {
 public:
  explicit ReturnsAsLineEnds(ByteSource& text) : text_(text) {}
  size_t read(char* data, size_t room) override {
    const size_t count = text_.read(data, room);
    std::replace(data, data + count, '\r', '\n');
    return count;
  }

 private:
  ByteSource& text_;
};

}  // namespace

PackedForm packed_form(std::string_view front) {
  if (front.starts_with("\x1f\x8b")) return PackedForm::kGzip;
  // A skippable frame may come first (pzstd writes one).
  if (front.starts_with("\x28\xb5\x2f\xfd") || (front.size() > 3 && (front[0] & 0xf0) == 0x50 && front.substr(1).starts_with("\x2a\x4d\x18")))
    return PackedForm::kZstd;
  if (front.starts_with("\xff\xfe") && !front.starts_with("\xff\xfe\0\0"sv)) return PackedForm::kUtf16Little;
  if (front.starts_with("\xfe\xff")) return PackedForm::kUtf16Big;
  // Without its mark: two characters of ASCII, with which any JSON or table begins.
  if (front.size() > 3 && front[0] != '\0' && front[1] == '\0' && front[2] != '\0' && front[3] == '\0') return PackedForm::kUtf16Little;
  if (front.size() > 3 && front[0] == '\0' && front[1] != '\0' && front[2] == '\0' && front[3] != '\0') return PackedForm::kUtf16Big;
  return PackedForm::kPlain;
}

TextForm text_form(std::string_view front) {
  const std::string_view text = trimmed(without_mark(front));
  if (text.starts_with('[')) {
    const auto end = end_of_value(text);
    // Lines that are arrays each are bad lines, and a line that only begins as one is.
    const bool all = end && trimmed(text.substr(*end)).empty(), of_objects = trimmed(text.substr(1)).starts_with('{');
    return all || (of_objects && !end) ? TextForm::kArray : TextForm::kLines;
  }
  if (text.starts_with('{')) {
    const auto end = end_of_value(text);
    const bool many_lines = end && text.substr(0, *end).find_first_of("\r\n") != std::string_view::npos;
    // A broken first line closes somewhere too; it is no JSON with what follows.
    if (many_lines && !json_or_none(text.substr(0, *end)).is_discarded()) return TextForm::kValues;
    // Requests one after the other on a single line.
    if (end && front.find_first_of("\r\n") == std::string_view::npos && trimmed(text.substr(*end)).starts_with('{')) return TextForm::kValues;
  }
  return has_bare_returns_only(front) ? TextForm::kCarriageReturns : TextForm::kLines;
}

TextForm text_form(FrontBytes& text, size_t most_of_line) {
  const std::string_view front = trimmed(without_mark(text.front()));
  // An array is known by its beginning.
  const bool is_open = front.starts_with('{') && !end_of_value(front), has_no_line = front.find('\n') == std::string_view::npos;
  if (is_open || has_no_line) text.grow(most_of_line);
  return text_form(text.front());
}

std::string binary_form(std::string_view front, const std::string& path) {
  static const std::string kPandas =
      "write its rows as JSONL, for example with pandas: {}.to_json(\"prompts.jsonl\", orient=\"records\", lines=True); lines like {\"prompt\": \"...\"} will do";
  const auto with_pandas = [](const char* what, const char* reader) {
    std::string advice = kPandas;
    return std::string(what) + "; " + advice.replace(advice.find("{}"), 2, reader);
  };
  static constexpr std::pair<std::string_view, std::string_view> kFormats[]{
      {"\xfd"
       "7zXZ\0"sv,
       "it is compressed with xz; unpack it (xz -dk)"},
      {"\x04\x22\x4d\x18", "it is compressed with lz4; unpack it (lz4 -dk)"},
      {"7z\xbc\xaf\x27\x1c", "it is a 7z archive; unpack it (7z x)"},
      {"Rar!\x1a\x07", "it is a RAR archive; unpack it"},
      {"%PDF-", "it is a PDF; write its text as prompts"},
      {"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "it is a file of Microsoft Office; save it as CSV, and its rows as JSONL"},
      {"SQLite format 3\0"sv, "it is an SQLite database; write its rows as JSONL"},
      {"\x89HDF\r\n\x1a\n", "it is an HDF5 file; write its rows as JSONL"},
      {"\x93NUMPY", "it is a NumPy array; write its rows as JSONL"},
      {"Obj\x01", "it is an Avro file; write its rows as JSONL"},
      {"GGUF\x03\0\0\0"sv, "it is a model (GGUF), no prompts"},
      {"\x7f"
       "ELF",
       "it is a program, no prompts"},
      {"\x89PNG", "it is a picture, no prompts"},
      {"\xff\xd8\xff", "it is a picture, no prompts"},
      {"\xff\xfe\0\0"sv, "it is in UTF-32; write it as UTF-8 (iconv -f UTF-32 -t UTF-8)"},
      {"\0\0\xfe\xff"sv, "it is in UTF-32; write it as UTF-8 (iconv -f UTF-32 -t UTF-8)"},
      {"\x1e{", "it is a JSON text sequence, with an RS character before each record; take these out (tr -d '\\036')"},
      {"version https://git-lfs.github.com/", "it is a Git LFS pointer, not the file itself; get that with git lfs pull"}};
  for (const auto& [magic, sentence] : kFormats)
    if (front.starts_with(magic)) return std::string(sentence);
  const std::string ending = std::filesystem::path(path).extension().string();
  if (front.starts_with("PK\x03\x04"))
    return ending == ".xlsx" ? with_pandas("it is an Excel table", "read_excel(\"table.xlsx\")") : "it is a zip archive; unpack it (unzip)";
  if (front.starts_with("BZh") && front.substr(4).starts_with("1AY&SY")) return "it is compressed with bzip2; unpack it (bunzip2 -k)";
  if (front.starts_with("PAR1")) return with_pandas("it is Parquet", "read_parquet(\"table.parquet\")");
  if (front.starts_with("ARROW1") || front.starts_with("FEA1")) return with_pandas("it is an Arrow table", "read_feather(\"table.feather\")");
  if (front.size() > 262 && front.substr(257).starts_with("ustar")) return "it is a tar archive; unpack it (tar -xf)";
  if (packed_form(front) == PackedForm::kGzip || packed_form(front) == PackedForm::kZstd) return "it is compressed twice; unpack it once";
  if (front.size() > 7 && ((front[0] != '\0' && front.substr(1).starts_with("\0\0\0"sv) && front[4] != '\0' && front.substr(5).starts_with("\0\0\0"sv)) ||
                           front.starts_with("\0\0\0{"sv) || front.starts_with("\0\0\0["sv)))
    return "it is in UTF-32; write it as UTF-8 (iconv -f UTF-32 -t UTF-8)";
  return "";
}

std::string other_form(std::string_view front, const std::string& path) {
  if (std::string form = binary_form(front, path); !form.empty()) return form;
  const std::string ending = std::filesystem::path(path).extension().string();
  // A bad first line is no reason to refuse the lines behind it.
  const std::string_view text = trimmed(without_mark(front));
  if (has_object_line(text)) return "";
  if (text.starts_with('<')) return "it is XML or HTML; write its prompts as JSONL";
  if (text.starts_with("{'") || (text.starts_with('[') && trimmed(text.substr(1)).starts_with("{'")))
    return "its objects are written as Python prints them, with single quotes; write them with json.dumps()";
  if (text.starts_with('{') || text.starts_with('[')) return "";
  if (ending == ".csv" || ending == ".tsv" || begins_a_table(text))
    return text.empty() ? "" : "it is a table (CSV); flexgen map answers one prompt for each of its rows";
  if (ending == ".yaml" || ending == ".yml") return "it is YAML; write it as JSONL";
  if (is_binary(text)) return "it is no text; a file of requests has a JSON object a line, like {\"prompt\": \"...\"}";
  if (!text.empty() && (ending == ".txt" || ending == ".md")) return "it is text and not JSON; write each prompt as a line {\"prompt\": \"...\"}";
  return "";
}

std::unique_ptr<ByteSource> values_as_lines(ByteSource& text, TextForm form, const std::string& path) {
  FLEXGEN_CHECK(form == TextForm::kArray || form == TextForm::kValues);
  return std::make_unique<ValueLines>(text, form == TextForm::kArray, path);
}

std::unique_ptr<ByteSource> returns_as_line_ends(ByteSource& text) { return std::make_unique<ReturnsAsLineEnds>(text); }

}  // namespace flexgen
