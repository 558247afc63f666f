#pragma once
// FormParser: a multipart/form-data body (RFC 7578), in pieces of any size. Holds a boundary's length of it, or a part's head. One thread.

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "serve/http_part.h"

namespace flexgen {

/// The boundary that a Content-Type of multipart/form-data names; nothing: it is another type, or names none.
std::optional<std::string> form_boundary(std::string_view content_type);

class FormParser {
 public:
  FormParser(std::string_view boundary, std::function<void(const HttpPart&)> part, std::function<void(std::string_view)> piece)
      : edge_("\r\n--" + std::string(boundary)), part_(std::move(part)), piece_(std::move(piece)) {}

  /// False: it is no form. Throws what part and piece throw.
  bool take(std::string_view data);
  /// Whether the last boundary has come.
  bool ended() const { return state_ == State::kEnd; }

 private:
  enum class State { kBefore, kHead, kPart, kEnd };
  bool take_to_edge();
  bool take_head();

  std::string edge_;
  std::function<void(const HttpPart&)> part_;
  std::function<void(std::string_view)> piece_;
  State state_ = State::kBefore;
  std::string held_ = "\r\n";  ///< the first boundary may begin the body
  size_t parts_ = 0;
};

}  // namespace flexgen
