#pragma once
// ChatTemplate: how a model wants conversations written out, by its own Jinja template: the files, and what is done to a conversation before and after, as in
// PyPI transformers 5 (apply_chat_template). Immutable; any thread.

#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/chat_answer.h"
#include "text/jinja/template.h"

namespace flexgen {

/// Names and values beside a conversation that a template is given.
using TemplateVariables = std::vector<std::pair<std::string, jinja::Value>>;

/// A conversation as a request has it.
struct Conversation {
  jinja::Value messages;                ///< a list of dicts
  jinja::Value tools, documents;        ///< lists; None: there are none
  TemplateVariables variables;          ///< more for the template; they come before special tokens of the same name
  bool add_generation_prompt = true;    ///< the text ends where the assistant begins to speak
  bool continue_final_message = false;  ///< the text ends within the last message
};

class ChatTemplate {
 public:
  using SpecialTokens = std::vector<std::pair<std::string, std::string>>;  ///< "bos_token" and its like, and how each is written

  /// Of a checkpoint's folder: chat_template.jinja and additional_chat_templates/*.jinja, or else tokenizer_config.json (a text, or a list with names), or else
  /// chat_template.json; or of a GGUF. Null if it has none. Throws Error{user} that names the file, and the line of the template, for what is broken or not supported.
  static std::shared_ptr<const ChatTemplate> load(const std::string& directory, const SpecialTokens& special_tokens);
  /// Of one file, whatever a checkpoint says.
  static std::shared_ptr<const ChatTemplate> from_file(const std::string& path, const SpecialTokens& special_tokens);
  /// Of texts by their names; `source` is for messages.
  ChatTemplate(const std::map<std::string, std::string>& templates, std::string source, SpecialTokens special_tokens);

  /// The conversation as text, special tokens written out. `now`: the time that a template may ask for. Throws Error{user} with what the template says, or its line
  /// and what is wrong there.
  std::string render(const Conversation& conversation, std::time_t now) const;
  /// A field that the template never looks at, so that the model would not see it: "tools", "documents", or a name of the variables; empty if there is none.
  std::string unread_field(const Conversation& conversation) const;
  /// Whether the template looks at a variable of this name.
  bool mentions(const Conversation& conversation, std::string_view name) const { return chosen(conversation).compiled.mentions(name); }
  /// Throws Error{user} that names a message of which the template would write nothing: of a role that it passes over, at its place or anywhere, or calls of tools that it
  /// does not know. Words beside calls are not looked for, nor what a template takes out of a content.
  void check_all_is_written(const Conversation& conversation, std::time_t now) const;
  /// The marks of thoughts, with which answers to the conversation may begin; none: they do not.
  std::optional<ThoughtMarks> thought_marks(const Conversation& conversation) const { return chosen(conversation).thoughts; }
  /// How it writes calls of tools.
  CallForm call_form() const;
  /// How an answer to `prompt`, made of the conversation, is read: AnswerForm's thinks, marks, begins_in_thought, channels and begun.
  void tell_form(const Conversation& conversation, std::string_view prompt, AnswerForm* form) const;

 private:
  struct Named {
    jinja::Template compiled;
    std::optional<ThoughtMarks> thoughts;
    CallForm calls;
    bool writes_calls;         ///< those that messages have as tool_calls
    bool takes_parts = false;  ///< content that is a list of parts; else it is given as one text
  };
  const Named& plain() const;
  const Named& chosen(const Conversation& conversation) const;
  std::string run(const Named& named, const jinja::Value& messages, const Conversation& conversation, std::time_t now) const;
  bool finds_parts(const Named& named) const;

  std::map<std::string, Named> templates_;
  std::string source_;
  SpecialTokens special_tokens_;
};

}  // namespace flexgen
