#include "text/chat_harmony.h"

#include <algorithm>
#include <array>

#include "text/jinja/characters.h"

namespace flexgen {
namespace {

constexpr std::string_view kStart = "<|start|>", kChannel = "<|channel|>", kMessage = "<|message|>";
constexpr std::string_view kRecipient = "to=";
/// What ends a message and belongs to it.
constexpr std::array<std::string_view, 3> kEnds{"<|end|>", "<|return|>", "<|call|>"};

/// The word at the front of `text`.
std::string_view front_word(std::string_view text) { return text.substr(0, std::min(text.find_first_of(" \t\n<"), text.size())); }

void read_header(std::string_view header, HarmonyMessage* message) {
  if (const size_t at = header.find(kChannel); at != std::string_view::npos) message->channel = front_word(header.substr(at + kChannel.size()));
  for (size_t at = header.find(kRecipient); at != std::string_view::npos; at = header.find(kRecipient, at + 1)) {
    if (at > 0 && header[at - 1] != ' ' && header[at - 1] != '>') continue;
    message->recipient = front_word(header.substr(at + kRecipient.size()));
    return;
  }
}

}  // namespace

bool writes_harmony(std::string_view source) { return source.find(kChannel) != std::string_view::npos && source.find(kMessage) != std::string_view::npos; }

std::string begun_harmony_message(std::string_view prompt) {
  const size_t start = prompt.rfind(kStart);
  if (start == std::string_view::npos) return "";
  const std::string_view last = prompt.substr(start);
  if (std::any_of(kEnds.begin(), kEnds.end(), [&](std::string_view end) { return last.find(end) != std::string_view::npos; })) return "";
  const size_t message = last.find(kMessage);
  return std::string(message == std::string_view::npos ? last : last.substr(0, message + kMessage.size()));
}

HarmonyAnswer read_harmony(std::string_view text) {
  HarmonyAnswer answer;
  while (!text.empty()) {
    const size_t header_end = text.find(kMessage);
    if (header_end == std::string_view::npos) break;
    HarmonyMessage message;
    read_header(text.substr(0, header_end), &message);
    text.remove_prefix(header_end + kMessage.size());
    // A model may leave the end out where the next message begins.
    size_t end = std::min({text.find(kStart), text.find(kChannel), text.size()}), behind = end;
    for (std::string_view mark : kEnds)
      if (const size_t at = text.find(mark); at < end) behind = (end = at) + mark.size();
    message.text = text.substr(0, end);
    message.ended = end < text.size();
    answer.messages.push_back(message);
    text.remove_prefix(behind);
  }
  answer.rest = text;
  return answer;
}

std::string_view without_begun_mark(std::string_view text) {
  const size_t at = text.rfind('<');
  if (at == std::string_view::npos) return text;
  const std::string_view tail = text.substr(at);
  const auto begins = [&](std::string_view mark) { return tail.size() < mark.size() && mark.starts_with(tail); };
  const bool begun = begins(kStart) || begins(kChannel) || begins(kMessage) || std::any_of(kEnds.begin(), kEnds.end(), begins);
  return begun ? text.substr(0, at) : text;
}

}  // namespace flexgen
