#include "text/chat_answer.h"

#include "text/chat_harmony.h"

#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <utility>

namespace flexgen::chat_answer_test {
namespace {

constexpr const char* kCall = R"({"name": "f", "arguments": {"b": 1.50, "a": "é"}})";

std::string shown(std::string_view text, const AnswerForm& form) {
  const ChatAnswer answer = read_chat_answer(text, form);
  std::string out;
  if (answer.reasoning) out += "<" + *answer.reasoning + ">";
  if (answer.content) out += "[" + *answer.content + "]";
  for (const ToolCall& call : answer.calls) out += call.name + call.arguments;
  return out;
}

TEST(ChatAnswer, ThoughtsArePartedFromTheText) {
  const AnswerForm thinks{.thinks = true}, begun{.thinks = true, .begins_in_thought = true};
  EXPECT_EQ(shown("Yes.", {}), "[Yes.]");
  EXPECT_EQ(shown("", {}), "[]");
  EXPECT_EQ(shown("<think>hm</think>Yes.", {}), "[<think>hm</think>Yes.]");
  EXPECT_EQ(shown("Yes.", thinks), "[Yes.]");
  EXPECT_EQ(shown("<think>\nhm\n</think>\n\nYes.", thinks), "<\nhm\n>[\n\nYes.]");
  EXPECT_EQ(shown("\n<think>never ends", thinks), "<never ends>");
  EXPECT_EQ(shown("hm</think>Yes.", thinks), "[hm</think>Yes.]");  // nothing began that it could end
  EXPECT_EQ(shown("hm</think>Yes.", begun), "<hm>[Yes.]");
  EXPECT_EQ(shown("hm, cut off", begun), "<hm, cut off>");
  EXPECT_EQ(shown("<think>again</think>", begun), "<again>");
  const ThoughtMarks mistral = *thought_marks_of("{# [THINK] [/THINK] #}"), gemma = *thought_marks_of("{# <|channel> <channel|> #}");
  const AnswerForm magistral{.thinks = true, .marks = mistral}, gemma4{.thinks = true, .marks = gemma},
      begun4{.thinks = true, .marks = gemma, .begins_in_thought = true};
  EXPECT_EQ(shown("[THINK]hm[/THINK]Yes.", magistral), "<hm>[Yes.]");
  EXPECT_EQ(shown("<think>hm</think>Yes.", magistral), "[<think>hm</think>Yes.]");
  EXPECT_EQ(shown("<|channel>thought\nhm\n<channel|>Yes.", gemma4), "<hm\n>[Yes.]");
  EXPECT_EQ(shown("<|channel>thought\n<channel|>Yes.", gemma4), "<>[Yes.]");
  EXPECT_EQ(shown("<|channel>hm<channel|>Yes.", gemma4), "<hm>[Yes.]");
  EXPECT_EQ(shown("thought\n<channel|>Yes.", begun4), "<thought\n>[Yes.]");
  EXPECT_TRUE(ends_in_thought("<|turn>model\n<|channel>thought\n", gemma));
  EXPECT_FALSE(ends_in_thought("<|turn>model\n<|channel>thought\n<channel|>", gemma));
  EXPECT_FALSE(thought_marks_of("{{ messages }}"));
  EXPECT_EQ(thought_marks_of("{# <think> </think> <answer> #}")->answer_begin, "");
  EXPECT_TRUE(ends_in_thought("<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(ends_in_thought("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
}

TEST(ChatAnswer, MarksAroundTheAnswerAreNoPartOfIt) {
  const auto form_of = [](const char* source) { return AnswerForm{.thinks = true, .marks = *thought_marks_of(source)}; };
  const AnswerForm hunyuan = form_of("{{ m.split('</think>') }}{{ '<answer>' }}{{ '</answer>' }}"),
                   granite = form_of("between <think></think> and write your response between <response></response>"),
                   command = form_of("<|START_THINKING|><|END_THINKING|><|START_RESPONSE|>{{ m }}<|END_RESPONSE|>"), usual{.thinks = true};
  EXPECT_EQ(shown("<think>\nhm\n</think>\n<answer>\nYes.\n</answer>", hunyuan), "<\nhm\n>[\nYes.\n]");
  EXPECT_EQ(shown("<think>hm</think><response>Yes.</response>\n", granite), "<hm>[Yes.]");
  EXPECT_EQ(shown("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>", command), "<hm>[Yes.]");
  EXPECT_EQ(shown("<|START_THINKING|>hm<|END_THINKING|><|START_ACTION|>[]<|END_ACTION|>", command), "<hm>[<|START_ACTION|>[]<|END_ACTION|>]");
  EXPECT_EQ(shown("<|START_RESPONSE|>Yes.<|END_RESPONSE|>", command), "[Yes.]") << "without thoughts";
  EXPECT_EQ(shown("hm</think><answer>Yes.</answer>", hunyuan), "[hm</think><answer>Yes.</answer>]");
  EXPECT_EQ(shown("<think>hm</think><answer></answer>", hunyuan), "<hm>");
  EXPECT_EQ(shown("<answer></answer>", hunyuan), "[]");
  EXPECT_EQ(shown("<answer>Yes.</ans", hunyuan), "[Yes.</ans]") << "cut off";
  EXPECT_EQ(shown("<answer>a</answer> ends it", hunyuan), "[a</answer> ends it]");
  EXPECT_EQ(shown("The mark is </answer>", hunyuan), "[The mark is </answer>]");
  EXPECT_EQ(shown("<think>hm</think><answer>Yes.</answer>", usual), "<hm>[<answer>Yes.</answer>]");
  EXPECT_TRUE(ends_in_thought("<|CHATBOT_TOKEN|><|START_THINKING|>", command.marks));
  EXPECT_FALSE(ends_in_thought("<|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>", command.marks));
}

TEST(ChatAnswer, CallsOfHermesAndQwen) {
  const AnswerForm form{.calls = CallForm::kHermes, .thinks = true};
  const std::string call = "<tool_call>\n" + std::string(kCall) + "\n</tool_call>";
  EXPECT_EQ(shown(call, form), R"(f{"b": 1.50, "a": "é"})");
  EXPECT_EQ(shown("I look.\n" + call + "\n" + call, form), R"([I look.
]f{"b": 1.50, "a": "é"}f{"b": 1.50, "a": "é"})");
  EXPECT_EQ(shown("<think>hm</think>\n\n" + call, form), R"(<hm>f{"b": 1.50, "a": "é"})");
  EXPECT_EQ(shown("<tool_call>" + std::string(kCall), form), R"(f{"b": 1.50, "a": "é"})");  // its end may be a token that is left out
  EXPECT_EQ(shown(call + call, {.calls = CallForm::kHermes, .one_call = true}), R"(f{"b": 1.50, "a": "é"})");
  EXPECT_EQ(shown(call, {}), "[" + call + "]");
  // Marks within a text of the arguments are text.
  const std::string marked = R"({"a": "</tool_call> <tool_call>{"})";
  EXPECT_EQ(shown("<tool_call>\n{\"name\": \"f\", \"arguments\": " + marked + "}\n</tool_call>\n" + call, form), "f" + marked + R"(f{"b": 1.50, "a": "é"})");
  EXPECT_EQ(shown("<tool_call>" + std::string(kCall) + " and more</tool_call>", form), "[<tool_call>" + std::string(kCall) + " and more</tool_call>]");
  for (const char* broken : {"<tool_call>{\"name\": \"f\"", "<tool_call>{}</tool_call>", "<tool_call>[1]</tool_call>",
                             "<tool_call>{\"name\": 3, \"arguments\": {}}</tool_call>", "<tool_call></tool_call>"})
    EXPECT_EQ(shown(broken, form), "[" + std::string(broken) + "]");
}

TEST(ChatAnswer, CallsOfLlama) {
  const AnswerForm form{.calls = CallForm::kLlama};
  EXPECT_EQ(shown(R"({"name": "f", "parameters": {"x": "}"}})", form), R"(f{"x": "}"})");
  EXPECT_EQ(shown(R"(<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "arguments": {"l": [1]}})", form), R"(f{}g{"l": [1]})");
  EXPECT_EQ(shown(R"({"name": "f", "parameters": {}} and more)", form), R"([{"name": "f", "parameters": {}} and more])");
  EXPECT_EQ(shown(R"({"name": "f", "parameters": {)", form), R"([{"name": "f", "parameters": {])");
  EXPECT_EQ(shown(R"({"answer": 3})", form), R"([{"answer": 3}])");
}

TEST(ChatAnswer, CallsOfMistral) {
  const AnswerForm form{.calls = CallForm::kMistral};
  EXPECT_EQ(shown("[TOOL_CALLS] [" + std::string(kCall) + ", " + kCall + "]", form), R"(f{"b": 1.50, "a": "é"}f{"b": 1.50, "a": "é"})");
  EXPECT_EQ(shown(R"(Well.[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[CALL_ID]abcdefghi[ARGS]{"y": {}}[TOOL_CALLS]h{})", form),
            R"([Well.]f{"x": 1}g{"y": {}}h{})");
  const std::string marked = R"({"a": "[TOOL_CALLS] {"})";
  EXPECT_EQ(shown(R"([TOOL_CALLS] [{"name": "f", "arguments": )" + marked + R"(}])", form), "f" + marked);
  EXPECT_EQ(shown("[TOOL_CALLS]f[ARGS]" + marked + "[TOOL_CALLS]g[ARGS]{}", form), "f" + marked + "g{}");
  for (const char* broken :
       {"[TOOL_CALLS]", "[TOOL_CALLS] [1]", "[TOOL_CALLS] [{\"name\"", "[TOOL_CALLS]{\"x\": 1}", "[TOOL_CALLS]f[ARGS]{\"x\"", "[TOOL_CALLS]f"})
    EXPECT_EQ(shown(broken, form), "[" + std::string(broken) + "]");
}

TEST(ChatAnswer, CallsOfCommand) {
  const AnswerForm form{.calls = CallForm::kCommand, .thinks = true, .marks = *thought_marks_of("<|END_THINKING|><|START_RESPONSE|><|END_RESPONSE|>")};
  const std::string call = R"({"tool_call_id": "0", "tool_name": "f", "parameters": {"b": 1.50, "a": "é"}})", read = R"(f{"b": 1.50, "a": "é"})";
  const std::string calls = "<|START_ACTION|>[\n    " + call + ",\n    " + call + "\n]<|END_ACTION|>";
  EXPECT_EQ(shown("<|START_THINKING|>I look.<|END_THINKING|>" + calls, form), "<I look.>" + read + read);
  EXPECT_EQ(shown("Well." + calls, form), "[Well.]" + read + read);
  EXPECT_EQ(shown("<|START_ACTION|>[" + call + "]", form), read) << "its end may be a token that is left out";
  EXPECT_EQ(shown(calls, {.calls = CallForm::kCommand, .one_call = true}), read);
  EXPECT_EQ(shown(calls, {}), "[" + calls + "]");
  EXPECT_EQ(shown("<|START_RESPONSE|>Yes.<|END_RESPONSE|>", form), "[Yes.]");
  const std::string marked = R"({"a": "<|END_ACTION|><|START_ACTION|>["})";
  EXPECT_EQ(shown(R"(<|START_ACTION|>[{"tool_name": "f", "parameters": )" + marked + "}]<|END_ACTION|>", form), "f" + marked);
  for (const std::string broken : {"<|START_ACTION|>", "<|START_ACTION|>[]<|END_ACTION|>", "<|START_ACTION|>[{\"tool_name\": \"f\"}]<|END_ACTION|>",
                                   "<|START_ACTION|>[{\"name\": \"f\", \"parameters\": {}}]<|END_ACTION|>", "<|START_ACTION|>{}<|END_ACTION|>"})
    EXPECT_EQ(shown(broken, form), "[" + broken + "]");
}

TEST(ChatAnswer, CallsOfListsBehindAMark) {
  const std::string list = "[" + std::string(kCall) + ", " + kCall + "]", read = R"(f{"b": 1.50, "a": "é"})";
  const AnswerForm granite{.calls = CallForm::kGranite}, phi{.calls = CallForm::kPhi};
  EXPECT_EQ(shown("<|tool_call|>" + list, granite), read + read);
  EXPECT_EQ(shown("<tool_call>" + list, granite), read + read) << "as Granite 3.1 writes it";
  EXPECT_EQ(shown("<tool_call>" + list, {.calls = CallForm::kGranite, .held_calls = true}), "[<tool_call>" + list + "]");
  EXPECT_EQ(shown("I look. <|tool_call|>" + std::string(kCall) + "\n", granite), "[I look. ]" + read);
  EXPECT_EQ(shown("<|tool_call|>" + list + " and more", granite), "[<|tool_call|>" + list + " and more]");
  EXPECT_EQ(shown("<|tool_call|>" + list + "<|/tool_call|>", phi), read + read);
  EXPECT_EQ(shown("<|tool_call|>" + std::string(kCall) + "<|/tool_call|>", phi), read);
  const AnswerForm hunyuan{.calls = CallForm::kHunyuan, .thinks = true, .marks = *thought_marks_of("</think><answer></answer>")};
  EXPECT_EQ(shown("<think>\nhm\n</think>\n<answer>\n<tool_calls>" + list + "</tool_calls>\n</answer>", hunyuan), "<\nhm\n>" + read + read);
  for (const char* broken : {"<|tool_call|>", "<|tool_call|>[]", "<|tool_call|>[{\"name\": \"f\"}]", "<|tool_call|>[{\"name\"", "<|tool_call|>f(1)"})
    EXPECT_EQ(shown(broken, granite), "[" + std::string(broken) + "]");
}

const AnswerForm kChannels{.calls = CallForm::kHarmony, .channels = true, .begun = "<|start|>assistant"};
const std::string kAnalysis = "<|channel|>analysis<|message|>hm < 3<|end|>", kNext = "<|start|>assistant", kFinal = "<|channel|>final<|message|>Yes.",
                  kToF = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"x\":1}";

/// What is settled grows, and never says what the end does not.
TEST(ChatAnswer, WhatIsSettledStays) {
  const AnswerForm thinks{.thinks = true}, begun{.thinks = true, .begins_in_thought = true}, plain,
      gemma{.thinks = true, .marks = *thought_marks_of("<channel|>")}, hunyuan{.thinks = true, .marks = *thought_marks_of("</think><answer></answer>")};
  const std::string channels =
      kAnalysis + kNext + "<|channel|>commentary<|message|>so <|end|>" + kNext + kAnalysis + kNext + "<|channel|>final<|message|>a < b <|en";
  for (const auto& [text, form] : {std::pair{channels.c_str(), kChannels},
                                   {"plain text", kChannels},
                                   {"<think>a < b</th</think>\nyes", thinks},
                                   {"a < b</think>yes", begun},
                                   {"parse <think> and </think> tags", thinks},
                                   {"  <think>unended </thin", thinks},
                                   {"just <think text", thinks},
                                   {"<|channel>thought\na <chan\n<channel|>yes", gemma},
                                   {"<|channel>thousand<channel|>yes", gemma},
                                   {"<|channel>thought", gemma},
                                   {"<|channel>thought\n<channel|>", gemma},
                                   {"<think>hm</think>\n<answer>\na < b</ans>\n</answer>\n", hunyuan},
                                   {"<think>hm</think>\n\nno marks </answer>", hunyuan},
                                   {"\n<answer>a<</answer>", hunyuan},
                                   {"<answer>a</answer>\n</answer> and more", hunyuan},
                                   {"<answers", hunyuan},
                                   {"plain", plain}}) {
    const ChatAnswer whole = read_chat_answer(text, form);
    ChatAnswer before;
    for (size_t size = 0; size <= std::string_view(text).size(); ++size) {
      const ChatAnswer now = settled_chat_answer(std::string_view(text).substr(0, size), form);
      for (const auto& [part, earlier, end] : {std::tuple{now.reasoning, before.reasoning, whole.reasoning}, {now.content, before.content, whole.content}}) {
        EXPECT_TRUE(part.value_or("").starts_with(earlier.value_or(""))) << text << " at " << size;
        EXPECT_TRUE(end.value_or("").starts_with(part.value_or(""))) << text << " at " << size;
      }
      before = now;
    }
    if (!form.channels) {
      EXPECT_EQ(before.content, whole.content) << text;
    }
  }
  EXPECT_EQ(settled_chat_answer("<think>ab", thinks).reasoning, "ab");
  EXPECT_EQ(settled_chat_answer("<answer>ab</a", hunyuan).content, "ab");
  EXPECT_EQ(settled_chat_answer("<think></think>\n<answ", hunyuan).content, std::nullopt);
  EXPECT_EQ(settled_chat_answer("ab", AnswerForm{.calls = CallForm::kHermes}).content, std::nullopt);
}

TEST(ChatAnswer, ChannelsOfHarmony) {
  EXPECT_EQ(shown(kFinal, kChannels), "[Yes.]");
  EXPECT_EQ(shown(kAnalysis + kNext + kFinal, kChannels), "<hm < 3>[Yes.]");
  EXPECT_EQ(shown(kAnalysis + kNext + kFinal + "<|return|>", kChannels), "<hm < 3>[Yes.]");
  EXPECT_EQ(shown(kAnalysis + kNext + kAnalysis + kNext + kFinal, kChannels), "<hm < 3\nhm < 3>[Yes.]");
  EXPECT_EQ(shown("<|channel|>analysis<|message|>cut off", kChannels), "<cut off>");
  // A call ends the answer; its end token is no part of the text. The recipient may stand before the channel, too, and the type without its mark.
  EXPECT_EQ(shown(kAnalysis + kNext + kToF, kChannels), R"(<hm < 3>f{"x": 1})");
  EXPECT_EQ(shown(kAnalysis + kNext + kToF + "<|call|>", kChannels), R"(<hm < 3>f{"x": 1})");
  EXPECT_EQ(shown(" to=functions.f<|channel|>commentary json<|message|>{}", kChannels), "f{}");
  EXPECT_EQ(shown("<|channel|>commentary<|message|>I look.<|end|>" + kNext + kToF + "<|call|>" + kNext + kToF, kChannels), R"([I look.]f{"x": 1}f{"x": 1})");
  EXPECT_EQ(shown(kToF + "<|call|>" + kNext + kToF, {.calls = CallForm::kHarmony, .one_call = true, .channels = true, .begun = kNext}), R"(f{"x": 1})");
  EXPECT_EQ(shown("<|channel|>commentary to=functions.f<|message|>{\"x\"", kChannels), "[{\"x\"]") << "cut off within a call";
  // Without tools nothing is a call, and what is for others than the user is thought.
  EXPECT_EQ(shown(kToF, {.channels = true, .begun = kNext}), R"(<{"x":1}>)");
  EXPECT_EQ(shown("<|channel|>analysis to=python code<|message|>1+1<|call|>", kChannels), "<1+1>");
  // No header at all, one that is cut off, one that leaves its end out, and a prompt that ends within a message.
  EXPECT_EQ(shown("plain", kChannels), "[plain]");
  EXPECT_EQ(shown("", kChannels), "[]");
  EXPECT_EQ(shown(kAnalysis + kNext + "<|channel|>fi", kChannels), "<hm < 3>");
  EXPECT_EQ(shown("<|channel|>analysis<|message|>hm" + kFinal, kChannels), "<hm>[Yes.]");
  EXPECT_EQ(shown("s.", {.channels = true, .begun = "<|start|>assistant<|channel|>final<|message|>"}), "[s.]");
}

TEST(ChatAnswer, TheMessageThatAPromptBegins) {
  EXPECT_EQ(begun_harmony_message("<|start|>user<|message|>Hi<|end|><|start|>assistant"), "<|start|>assistant");
  EXPECT_EQ(begun_harmony_message("<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>Ye"),
            "<|start|>assistant<|channel|>final<|message|>");
  EXPECT_EQ(begun_harmony_message("<|start|>user<|message|>Hi<|end|>"), "");
  EXPECT_EQ(begun_harmony_message("Hi"), "");
}

TEST(ChatAnswer, TheTemplateShowsTheForm) {
  EXPECT_EQ(call_form_of("<|start|>assistant<|channel|>final<|message|>"), CallForm::kHarmony);
  EXPECT_EQ(call_form_of("{{ '<tool_call>\\n' }}"), CallForm::kHermes);
  EXPECT_EQ(call_form_of("{{ '<tool_call>\\n<function=' }}"), CallForm::kNone);
  EXPECT_EQ(call_form_of("{{ '<tool_call>\\n<function=f>\\n<parameter=' }}"), CallForm::kQwenXml);
  EXPECT_EQ(call_form_of("<tool_call>f\n<arg_key>{k}</arg_key>\n<arg_value>"), CallForm::kGlm);
  EXPECT_EQ(call_form_of("{% set begin = '<minimax:tool_call>' %}<invoke name=\"f\">"), CallForm::kMiniMax);
  EXPECT_EQ(call_form_of("<tool_call><invoke name=\"f\">"), CallForm::kNone) << "MiniMax-M3";
  EXPECT_EQ(call_form_of("{% set begin = '<seed:tool_call>' %}<function=f>\\n<parameter="), CallForm::kSeedXml);
  EXPECT_EQ(call_form_of("respond only with <|tool_call|> followed by"), CallForm::kGranite);
  EXPECT_EQ(call_form_of("<|tool_call|>{}<|/tool_call|>"), CallForm::kPhi);
  EXPECT_EQ(call_form_of("<tool_calls>[{\"name\": \"f\"}, ...]</tool_calls> within <tool_call>"), CallForm::kHunyuan);
  EXPECT_EQ(call_form_of("'<|tool_call>call:' + name + '{' }}<|\"|>{{ '}<tool_call|>'"), CallForm::kGemma);
  EXPECT_EQ(call_form_of("<functions></functions> {{ '<function_calls>' }}"), CallForm::kOlmo);
  EXPECT_EQ(call_form_of("[TOOL_CALLS]"), CallForm::kMistral);
  EXPECT_EQ(call_form_of("[TOOL_CALLS] [ARGS]"), CallForm::kMistralNamed);
  EXPECT_EQ(call_form_of("[TOOL_CALLS] [CALL_ID] [ARGS]"), CallForm::kMistralNumbered);
  EXPECT_EQ(call_form_of("<|START_ACTION|>[{\"tool_name\": ...}]<|END_ACTION|>"), CallForm::kCommand);
  EXPECT_EQ(call_form_of("<|start_header_id|> {{- '\"parameters\": ' }}"), CallForm::kLlama);
  EXPECT_EQ(call_form_of("{{ messages }}"), CallForm::kNone);
}

}  // namespace
}  // namespace flexgen::chat_answer_test
