#pragma once
// ChatSource: the chat template of a command: the file that was given, or the model's own.

#include <memory>
#include <string>

#include "batch/batch_line.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace flexgen {

struct ChatSource {
  std::shared_ptr<const ChatTemplate> chat;  ///< null: conversations cannot be written out
  std::string why_not;                       ///< then, where more can be said than that the model has none
};

/// `model`: a checkpoint's folder. `file`: of --chat-template; empty: the model's own. Without a tokenizer there is none. Throws Error{user} for a file that is broken; a broken template
/// of the model is told by those who need it.
ChatSource find_chat_template(const std::string& model, const std::string& file, const Tokenizer* tokenizer);

/// The same as a part of what a batch line needs, with the tokenizer that is there already.
void add_chat_template(const std::string& model, const std::string& file, ModelLimits* limits);

/// The same for a flag or command, `who`, that cannot go on without it.
std::shared_ptr<const ChatTemplate> require_chat_template(const std::string& who, const std::string& model, const std::string& file,
                                                          const Tokenizer& tokenizer);

/// What --chat-template-kwargs says: a JSON object; empty: nothing. Throws Error{user} for anything else, and for a name of what the conversation itself says.
TemplateVariables template_kwargs_of(const std::string& json);
/// Throws Error{user} that names one of them that the template never looks at.
void check_template_kwargs(const ChatTemplate& chat, const Conversation& conversation);

}  // namespace flexgen
