#include "text/chat_template.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>

#include "base/error.h"
#include "io/test_folder.h"
#include "text/grammar/parameter_types.h"
#include "text/jinja/json_values.h"
#include "text/xml_calls.h"

namespace flexgen::chat_template_test {
namespace {

const ChatTemplate::SpecialTokens kTokens{{"bos_token", "<s>"}, {"eos_token", "</s>"}};
using jinja::Value;
namespace fs = std::filesystem;
constexpr const char* kPlain =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

Conversation conversation(const std::string& messages) {
  Conversation result;
  result.messages = jinja::parse_json_value(messages, 1000);
  return result;
}

const Conversation kHello = conversation(R"([{"role": "user", "content": "Hello"}])");

std::string rendered(const TestFolder& folder, const Conversation& asked = kHello) {
  return ChatTemplate::load(folder.path().string(), kTokens)->render(asked, 0);
}

std::string rendered(const char* source, const Conversation& asked) { return ChatTemplate({{"default", source}}, "a file", kTokens).render(asked, 0); }

std::string refusal(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(ChatTemplate, IsFoundWhereItLives) {
  TestFolder folder;
  EXPECT_EQ(ChatTemplate::load(folder.path().string(), kTokens), nullptr);
  folder.put("tokenizer_config.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(ChatTemplate::load(folder.path().string(), kTokens), nullptr);
  folder.put("chat_template.json", R"({"chat_template": "json {{ messages[0].content }}"})");
  EXPECT_EQ(rendered(folder), "json Hello");
  folder.put("tokenizer_config.json", R"({"chat_template": "config {{ messages[0].content }}"})");
  EXPECT_EQ(rendered(folder), "config Hello");
  folder.put("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "tools"}]})");
  EXPECT_EQ(rendered(folder), "one");
  Conversation with_tools = kHello;
  with_tools.tools = jinja::make_list({jinja::make_dict({})});
  EXPECT_EQ(rendered(folder, with_tools), "tools");
  folder.put("chat_template.jinja", "file {{ bos_token }}");
  EXPECT_EQ(rendered(folder, with_tools), "file <s>");  // the files beside take the place of all in the configuration
  std::filesystem::create_directory(folder.path() / "additional_chat_templates");
  folder.put("additional_chat_templates/tool_use.jinja", "file of tools");
  EXPECT_EQ(rendered(folder, with_tools), "file of tools");
  EXPECT_EQ(rendered(folder), "file <s>");
  EXPECT_EQ(ChatTemplate::from_file(folder.put("other", "other"), kTokens)->render(kHello, 0), "other");
  // A checkpoint's file in JSON holds the template; as a template it would be taken for text.
  EXPECT_EQ(ChatTemplate::from_file(folder.put("chat_template.json", R"({"chat_template": "in JSON {{ bos_token }}"})"), kTokens)->render(kHello, 0),
            "in JSON <s>");
  EXPECT_THROW(ChatTemplate::from_file(folder.put("other.json", R"({"template": "x"})"), kTokens), Error);
  EXPECT_EQ(ChatTemplate::from_file(folder.put("braces", "{{ bos_token }}"), kTokens)->render(kHello, 0), "<s>");
}

TEST(ChatTemplate, WhetherAnswersThinkIsAskedOfTheTemplateThatIsUsed) {
  const ChatTemplate chat({{"default", "plain"}, {"tool_use", "{# <think></think> #}"}}, "a file", kTokens);
  EXPECT_FALSE(chat.thought_marks(kHello));
  Conversation with_tools = kHello;
  with_tools.tools = jinja::make_list({jinja::make_dict({})});
  EXPECT_TRUE(chat.thought_marks(with_tools));
}

TEST(ChatTemplate, BrokenOnesAreToldByFileAndLine) {
  TestFolder folder;
  const auto load = [&] { ChatTemplate::load(folder.path().string(), kTokens); };
  folder.put("tokenizer_config.json", R"({"chat_template": "a\n{% if %}"})");
  EXPECT_EQ(refusal(load), folder.file("tokenizer_config.json") + ": the chat template, line 2: an expression is expected, not '%}'");
  for (const char* broken : {R"({"chat_template": 3})", R"({"chat_template": [3]})", R"({"chat_template": [{"name": "default"}]})"}) {
    folder.put("tokenizer_config.json", broken);
    EXPECT_NE(refusal(load).find("neither a text nor a list"), std::string::npos) << broken;
  }
  folder.put("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}]})");
  EXPECT_NE(refusal(load).find("'rag' and none named 'default'"), std::string::npos) << refusal(load);
  folder.put("chat_template.jinja", "version https://git-lfs.github.com/spec/v1\noid sha256:46\nsize 1345\n");
  EXPECT_NE(refusal(load).find("git lfs pull"), std::string::npos);
  EXPECT_EQ(refusal([&] { rendered("{% for m in messages %}\n{{ m.content.x.y }}{% endfor %}", kHello); }),
            "the chat template of a file, line 2: 'str object' has no attribute 'x'");
  EXPECT_EQ(refusal([&] { rendered("{{ raise_exception('No user here') }}", kHello); }), "the chat template refuses the conversation: No user here");
}

TEST(ChatTemplate, MessagesAreHandedOverAsTransformersDoes) {
  // Members that are null are left out.
  EXPECT_EQ(rendered("{{ messages[0] }}", conversation(R"([{"role": "assistant", "content": null, "tool_calls": null, "name": "x"}])")),
            "{'role': 'assistant', 'name': 'x', 'content': ''}");
  EXPECT_EQ(rendered("{{ messages[0] }}", conversation(R"([{"role": "assistant", "content": "a", "tool_calls": []}])")),
            "{'role': 'assistant', 'content': 'a'}");
  EXPECT_EQ(rendered("{{ messages[0].content is defined }}", conversation(R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}])")), "False");
  // Thoughts go by each of their names.
  EXPECT_EQ(
      rendered("{{ messages[0].reasoning_content }},{{ messages[0].thinking }}", conversation(R"([{"role": "assistant", "content": "", "reasoning": "hm"}])")),
      "hm,hm");
  // Arguments of calls are what their JSON says.
  EXPECT_EQ(rendered("{{ messages[0].tool_calls[0].function.arguments.b }}",
                     conversation(R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\"b\": [1, 2.50]}"}}]}])")),
            "[1, 2.5]");
  for (const char* none : {R"("name": "f", "arguments": "")", R"("name": "f", "arguments": null)", R"("name": "f")"})
    EXPECT_EQ(rendered("{{ messages[0].tool_calls[0].function.arguments | tojson }}",
                       conversation(std::string(R"([{"role": "assistant", "tool_calls": [{"function": {)") + none + "}}]}]")),
              "{}")
        << none;
  EXPECT_EQ(rendered("{{ messages[0].tool_calls[0].function.arguments }}",
                     conversation(R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "no json"}}]}])")),
            "no json");
  std::string deep = std::string(98, '[') + std::string(98, ']');
  EXPECT_NE(refusal([&] {
              rendered("x", conversation(R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\"a\": )" + deep + R"(}"}}]}])"));
            }).find("levels deep"),
            std::string::npos);
  // Parts are given to a template that goes through them, and as one text to others.
  const Conversation parts = conversation(R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])");
  EXPECT_EQ(rendered(kPlain, parts), "<s>[user]a\nb[assistant]");
  EXPECT_EQ(rendered("{% for p in messages[0].content %}{% if p is mapping %}<{{ p.text }}>{% endif %}{% endfor %}", parts), "<a><b>");
  // Variables of the request come before special tokens.
  Conversation more = kHello;
  more.variables.emplace_back("bos_token", "<other>");
  EXPECT_EQ(rendered("{{ bos_token }}{{ eos_token }}", more), "<other></s>");
}

TEST(ChatTemplate, MessagesThatItLeavesOutAreRefused) {
  const auto check = [](const std::string& source, const std::string& messages) {
    const ChatTemplate chat({{"default", source}}, "a file", kTokens);
    return refusal([&] { chat.check_all_is_written(conversation(messages), 0); });
  };
  const auto loop = [](const std::string& inner) { return "{% for m in messages %}" + inner + "{% endfor %}"; };
  const std::string turns =
      R"([{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "<think>hm</think> A "}, {"role": "user", "content": "R"}])";
  const auto left_out = [](int index, const std::string& role) {
    return fmt::format(
        "messages[{}] has the role '{}', which the model's chat template leaves out; change it, or give another template with --chat-template FILE", index,
        role);
  };
  EXPECT_EQ(check(loop("{% if m.role != 'assistant' %}{{ m.content }}{% endif %}"), turns), left_out(2, "assistant"));
  EXPECT_EQ(check(loop("{% if m.role == 'system' %}{{ m.content }}{% endif %}"), turns), left_out(1, "user"));
  EXPECT_EQ(check(loop("{% if m.role != 'system' %}{{ m.content }}{% endif %}"), turns), left_out(0, "system"));
  EXPECT_EQ(check("{{ messages[0].content }}{{ messages[2].content }}{{ messages[-1].content }}", turns).substr(0, 70),
            "messages[1] is left out by the model's chat template, which writes oth");
  // What changes a content, or raises an error, leaves nothing out.
  for (const char* inner :
       {"{{ m.content | trim }}", "{{ m['content'] | upper }}", "{{ m.content | tojson }}", "{{ m.role }}: {{ m.content.split('</think>')[-1].lstrip('\\n') }}",
        "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content | replace('a', 'b') }}{% endif %}",
        "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}"})
    EXPECT_EQ(check(loop(inner), turns), "none") << inner;
  EXPECT_EQ(check("{% set s = messages[0].content %}{% for m in messages[1:] %}{% if loop.last %}{{ s }}{% endif %}{{ m.content }}{% endfor %}", turns),
            "none");
  // Nothing is missed of what is empty, or of words beside calls.
  const std::string users = loop("{% if m.tool_calls %}{{ m.tool_calls }}{% elif m.role != 'assistant' %}{{ m.content }}{% endif %}");
  EXPECT_EQ(check(users, R"([{"role": "user", "content": "Q"}, {"role": "assistant", "content": ""}, {"role": "assistant", "content": null}])"), "none");
  EXPECT_EQ(
      check(
          users,
          R"([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "I look.", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}])"),
      "none");
}

/// FLEXGEN_CHAT_TEMPLATES names a folder of more templates (*.jinja).
std::vector<fs::path> template_files() {
  std::vector<fs::path> files;
  const auto add_folder = [&](const fs::path& folder) {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == ".jinja") files.push_back(entry.path());
  };
  add_folder(fs::path(FLEXGEN_SOURCE_DIR) / "tests" / "fixtures" / "chat");
  if (const char* more = std::getenv("FLEXGEN_CHAT_TEMPLATES")) add_folder(more);
  return files;
}

/// Calls as templates write them are read as what they were. FLEXGEN_CHAT_TEMPLATES' are told, but not judged.
TEST(ChatTemplate, CallsThatAreWrittenAreRead) {
  const std::map<std::string, CallForm> known{{"glm-style.jinja", CallForm::kGlm},         {"harmony-style.jinja", CallForm::kHarmony},
                                              {"hermes-style.jinja", CallForm::kHermes},   {"qwen-style.jinja", CallForm::kHermes},
                                              {"mistral-style.jinja", CallForm::kMistral}, {"llama3-style.jinja", CallForm::kLlama}};
  const std::string arguments = R"({"city": "Zürich\n\"Altstadt\"", "days": 2, "wind": null, "list": [1, "a", true], "more": {"k": "5"}, "zip": "8001"})";
  const std::string user = R"({"role": "user", "content": "Hello"})";
  const std::string tools =
      R"([{"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": {"type": "object", "properties": {
          "city": {"type": "string", "description": "a"}, "days": {"type": "integer", "description": "a"},
          "list": {"type": "array", "description": "a"}, "more": {"type": "object", "description": "a"}, "zip": {"type": "string", "description": "a"}}, "required": []}}}])";
  for (const fs::path& file : template_files()) {
    const std::string name = file.filename().string();
    const auto chat = ChatTemplate::from_file(file.string(), kTokens);
    const bool is_fixture = file.parent_path().filename() == "chat";
    const CallForm form = chat->call_form();
    if (is_fixture) {
      EXPECT_EQ(form, known.contains(name) ? known.at(name) : CallForm::kNone) << name;
    }
    if (form == CallForm::kNone || form == CallForm::kHarmony) continue;
    std::string answer;
    try {
      Conversation asked = conversation("[" + user + "]"),
                   answered = conversation("[" + user +
                                           R"(, {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": )" +
                                           R"({"name": "get_weather", "arguments": )" + arguments + "}}]}]");
      answered.add_generation_prompt = asked.add_generation_prompt = false;
      asked.tools = answered.tools = jinja::parse_json_value(tools, 1000);
      const std::string before = chat->render(asked, 0), whole = chat->render(answered, 0);
      answer = whole.substr(static_cast<size_t>(std::mismatch(before.begin(), before.end(), whole.begin(), whole.end()).second - whole.begin()));
    } catch (const Error& error) {
      std::cout << name << ": " << error.what() << "\n";
      continue;
    }
    if (const size_t end = answer.find("<|eot_id|>"); form == CallForm::kLlama && end != std::string::npos) {  // its calls are all of an answer
      answer.resize(end);
      answer.erase(0, answer.find('{'));
    }
    const ChatAnswer read =
        read_chat_answer(answer, {.calls = form, .types = std::make_shared<const ParameterTypes>(parameter_types(jinja::parse_json_value(tools, 1000)))});
    std::string told;
    for (const ToolCall& call : read.calls) told += call.name + call.arguments;
    if (is_fixture) {
      EXPECT_EQ(told, "get_weather" + arguments) << name << ": " << answer;
    } else {
      std::cout << name << " " << static_cast<int>(form) << (told == "get_weather" + arguments ? ": the same\n" : ": " + told + "\n" + answer + "\n");
    }
  }
}

/// A conversation is refused where a message's text is really not there, and nowhere else.
TEST(ChatTemplate, NothingIsRefusedThatIsWritten) {
  const std::vector<fs::path> files = template_files();
  const std::vector<std::string> all{
      R"([{"role": "user", "content": " alpha? "}])",
      R"([{"role": "user", "content": "alpha"}, {"role": "assistant", "content": "bravo\n"}, {"role": "user", "content": "charlie"}])",
      R"([{"role": "system", "content": "delta"}, {"role": "user", "content": "alpha"}])",
      R"([{"role": "system", "content": "delta"}, {"role": "user", "content": "alpha"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nbravo"},
          {"role": "user", "content": "charlie"}, {"role": "assistant", "content": "<think></think>echo"}, {"role": "user", "content": "foxtrot"}])",
      R"([{"role": "user", "content": "alpha"}, {"role": "assistant", "reasoning_content": "hm", "content": "bravo"}, {"role": "user", "content": "charlie"}])",
      R"([{"role": "user", "content": [{"type": "text", "text": "alpha"}, {"type": "text", "text": "bravo"}]}])",
      R"([{"role": "user", "content": "alpha"}, {"role": "assistant", "content": "bravo",
           "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
          {"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": "golf"}, {"role": "assistant", "content": "hotel"}, {"role": "user", "content": "charlie"}])",
      R"([{"role": "user", "content": "alpha"}, {"role": "user", "content": "bravo"}, {"role": "system", "content": "delta"}])"};
  int written = 0;
  for (const fs::path& file : files)
    for (const std::string& messages : all) {
      Conversation asked = conversation(messages);
      const auto chat = ChatTemplate::from_file(file.string(), kTokens);
      std::string text;
      try {
        text = chat->render(asked, 0);
      } catch (const Error&) {
        continue;
      }
      const std::string why = refusal([&] { chat->check_all_is_written(asked, 0); });
      if (why == "none") {
        ++written;
        continue;
      }
      std::cout << file.filename().string() << ": " << why << "\n    " << messages << "\n";
      if (why.find("tool_calls") != std::string::npos) continue;
      const Value& message = asked.messages.list()->items[static_cast<size_t>(std::stoi(why.substr(why.find('[') + 1)))];
      std::string content = message.member("content")->text() ? message.member("content")->text()->bytes : "alpha";
      content.erase(0, content.rfind('>') == std::string::npos ? 0 : content.rfind('>') + 1);
      content.erase(content.find_last_not_of(" \n") + 1);
      content.erase(0, content.find_first_not_of(" \n"));
      EXPECT_EQ(text.find(content), std::string::npos) << file << " writes " << content << " of " << messages << ", and yet: " << why;
    }
  EXPECT_GT(written, 60);
}

TEST(ChatTemplate, ManyMessagesAreLookedForInOnePass) {
  std::string messages = "[";
  for (int i = 0; i < 200'000; ++i) messages += fmt::format(R"({}{{"role": "{}", "content": "a"}})", i > 0 ? "," : "", i % 2 == 0 ? "user" : "assistant");
  Conversation asked;
  asked.messages = jinja::parse_json_value(messages + "]", 1'000'000);
  const auto refused = [&](const char* source) {
    return refusal([&] { ChatTemplate({{"default", source}}, "a file", kTokens).check_all_is_written(asked, 0); });
  };
  EXPECT_EQ(refused("{% for m in messages %}{{ m.content }}{% endfor %}"), "none") << "one ends where the next begins";
  EXPECT_EQ(refused("{% for m in messages|reverse %}{{ m.content }}{{ m.role }}{% endfor %}"), "none") << "in any order";
  EXPECT_THAT(refused("{% for m in messages %}{% if not loop.last %}{{ m.content }}{% endif %}{% endfor %}"),
              testing::HasSubstr("messages[199999] is left out"));
  EXPECT_THAT(refused("{% for m in messages %}0{{ m.content|replace('needle12n', 'needle012n') }}{% endfor %}"),
              testing::HasSubstr("messages[12] is left out"));
}

TEST(ChatTemplate, TheLastMessageCanBeContinued) {
  Conversation asked = conversation(R"([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "The answer "}])");
  asked.add_generation_prompt = false;
  asked.continue_final_message = true;
  EXPECT_EQ(rendered("{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}", asked), "[user]Q</s>[assistant]The answer ");
  EXPECT_EQ(rendered("{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}</s>{% endfor %}", asked), "[user]Q</s>[assistant]The answer");
  EXPECT_NE(refusal([&] { rendered("{{ messages[0].content }}", asked); }).find("leaves the last message out"), std::string::npos);
  asked.messages = jinja::parse_json_value(R"([{"role": "assistant", "tool_calls": []}])", 100);
  EXPECT_NE(refusal([&] { rendered(kPlain, asked); }).find("no text to go on with"), std::string::npos);
  asked.add_generation_prompt = true;
  EXPECT_NE(refusal([&] { rendered(kPlain, asked); }).find("exclude each other"), std::string::npos);
}

}  // namespace
}  // namespace flexgen::chat_template_test
