#include "serve/form_parser.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>

namespace flexgen {
namespace {

constexpr size_t kMaxParts = 16, kMaxHeadBytes = 8 << 10, kMaxBoundaryBytes = 70;  // RFC 2046
constexpr std::string_view kLineEnd = "\r\n", kBlanks = " \t";

std::string lower(std::string_view text) {
  std::string small(text);
  std::transform(small.begin(), small.end(), small.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return small;
}

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  return text.substr(0, text.find_last_not_of(kBlanks) + 1);
}

/// "a; b=c; d=\"e; f\"": what stands first, and the others by their names in small letters.
struct HeaderValue {
  std::string first;
  std::map<std::string, std::string> parameters;
};

/// Behind the quote at `at`; `at` is then behind the one that closes it. Programs write a path's \ as it is, so it guards quotes and itself alone.
std::string quoted_text(std::string_view text, size_t* at) {
  std::string inner;
  size_t i = *at + 1;
  for (; i < text.size() && text[i] != '"'; ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == '"' || text[i + 1] == '\\')) ++i;
    inner += text[i];
  }
  *at = std::min(i + 1, text.size());
  return inner;
}

HeaderValue header_value(std::string_view text) {
  HeaderValue value;
  size_t at = std::min(text.find(';'), text.size());
  value.first = lower(trimmed(text.substr(0, at)));
  while (at < text.size()) {
    const size_t begin = at + 1, end = std::min(text.find_first_of("=;", begin), text.size());
    const std::string name = lower(trimmed(text.substr(begin, end - begin)));
    at = end;
    if (end == text.size() || text[end] == ';') continue;
    at = std::min(text.find_first_not_of(kBlanks, end + 1), text.size());
    std::string own;
    if (at < text.size() && text[at] == '"') {
      own = quoted_text(text, &at);
      at = std::min(text.find(';', at), text.size());
    } else {
      const size_t stop = std::min(text.find(';', at), text.size());
      own = trimmed(text.substr(at, stop - at));
      at = stop;
    }
    value.parameters.emplace(name, std::move(own));
  }
  return value;
}

/// "utf-8''n%C3%A4me" (RFC 5987); nothing in another character set.
std::optional<std::string> extended_text(const std::string& text) {
  const size_t first = text.find('\''), second = first == std::string::npos ? first : text.find('\'', first + 1);
  if (second == std::string::npos || lower(text.substr(0, first)) != "utf-8") return std::nullopt;
  std::string plain;
  for (size_t i = second + 1; i < text.size(); ++i) {
    unsigned char byte = 0;
    const char* digits = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() && std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
      plain += static_cast<char>(byte);
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

std::optional<HttpPart> part_of(std::string_view head) {
  while (!head.empty()) {
    const size_t end = std::min(head.find(kLineEnd), head.size());
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(std::min(end + kLineEnd.size(), head.size()));
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || lower(trimmed(line.substr(0, colon))) != "content-disposition") continue;
    HeaderValue value = header_value(line.substr(colon + 1));
    if (value.first != "form-data" || !value.parameters.contains("name")) return std::nullopt;
    std::optional<std::string> file_name;
    if (value.parameters.contains("filename*")) file_name = extended_text(value.parameters["filename*"]);
    return HttpPart{value.parameters["name"], file_name ? *file_name : value.parameters["filename"]};
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> form_boundary(std::string_view content_type) {
  HeaderValue value = header_value(content_type);
  const std::string& boundary = value.parameters["boundary"];
  if (value.first != "multipart/form-data" || boundary.empty() || boundary.size() > kMaxBoundaryBytes) return std::nullopt;
  return boundary;
}

bool FormParser::take(std::string_view data) {
  if (state_ == State::kEnd) return true;  // what follows is no part of the form
  held_ += data;
  for (;;) {
    const State before = state_;
    const size_t size = held_.size();
    if (!(state_ == State::kHead ? take_head() : take_to_edge())) return false;
    if (state_ == State::kEnd) held_.clear();
    if (state_ == State::kEnd || (state_ == before && held_.size() == size)) return true;
  }
}

bool FormParser::take_to_edge() {
  const auto give = [&](size_t bytes) {
    if (state_ == State::kPart && bytes > 0) piece_(std::string_view(held_).substr(0, bytes));
    held_.erase(0, bytes);
  };
  const size_t at = held_.find(edge_);
  if (at == std::string::npos) {
    give(held_.size() - std::min(held_.size(), edge_.size() - 1));
    return true;
  }
  // A line that only begins like a boundary is the part's own.
  const std::string_view behind = std::string_view(held_).substr(at + edge_.size());
  if (behind.starts_with("--")) {
    give(at);
    state_ = State::kEnd;
    return true;
  }
  const size_t end = behind.find_first_not_of(kBlanks);
  const std::string_view rest = end == std::string_view::npos ? std::string_view() : behind.substr(end);
  const bool is_line = rest.starts_with(kLineEnd), may_be = kLineEnd.starts_with(rest) || behind == "-";
  if (!is_line && may_be && behind.size() < kMaxHeadBytes) {  // until more of it is there
    give(at);
    return true;
  }
  if (!is_line) {
    give(at + edge_.size());
    return true;
  }
  const size_t bytes = edge_.size() + end;  // the line end begins the head, which may be empty
  give(at);
  held_.erase(0, bytes);
  state_ = State::kHead;
  return ++parts_ <= kMaxParts;
}

bool FormParser::take_head() {
  const size_t end = held_.find("\r\n\r\n");
  if (end == std::string::npos) return held_.size() <= kMaxHeadBytes;
  const std::optional<HttpPart> part = part_of(std::string_view(held_).substr(0, end));
  if (!part) return false;
  held_.erase(0, end + 2 * kLineEnd.size());
  state_ = State::kPart;
  part_(*part);
  return true;
}

}  // namespace flexgen
