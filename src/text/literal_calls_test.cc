#include "text/literal_calls.h"

#include <gtest/gtest.h>

#include <string>

#include "text/chat_answer.h"
namespace flexgen::literal_calls_test {
namespace {

std::string shown(std::string_view text, CallForm form) {
  const ChatAnswer answer = read_chat_answer(text, {.calls = form});
  std::string out = answer.content ? "[" + *answer.content + "]" : "";
  for (const ToolCall& call : answer.calls) out += call.name + call.arguments;
  return out;
}

TEST(LiteralCalls, OfGemma) {
  const CallForm form = CallForm::kGemma;
  EXPECT_EQ(shown(R"(<|tool_call>call:f{city:<|"|>São "Paulo"}, n:1<|"|>,days:2,big:1.50,ok:true,no:None}<tool_call|>)", form),
            R"(f{"city": "São \"Paulo\"}, n:1", "days": 2, "big": 1.50, "ok": true, "no": null})");
  EXPECT_EQ(shown(R"(Well.<|tool_call>call:a.b{map:{key:<|"|>v<|"|>,<|"|>k 2<|"|>:[1,<|"|>x<|"|>,[]]}}<tool_call|><|tool_call>call:g{}<tool_call|>)", form),
            R"([Well.]a.b{"map": {"key": "v", "k 2": [1, "x", []]}}g{})");
  for (const std::string broken : {R"(<|tool_call>call:f{city:<|"|>Oslo)", "<|tool_call>call:f{city:Oslo town}<tool_call|>", "<|tool_call>f{}<tool_call|>",
                                   "<|tool_call>call:f{}", "<|tool_call>call:f{:1}<tool_call|>", "<|tool_call>call:f{a:1 b:2}<tool_call|>"})
    EXPECT_EQ(shown(broken, form), "[" + broken + "]");
}

TEST(LiteralCalls, OfOlmo) {
  const CallForm form = CallForm::kOlmo;
  EXPECT_EQ(shown("<function_calls>f(city=\"Oslo (N) x\", days=2, x=null)\ng(list=['a', 'it\\'s', True], map={'k': 1.50})\nh()</function_calls>", form),
            R"(f{"city": "Oslo (N) x", "days": 2, "x": null}g{"list": ["a", "it's", true], "map": {"k": 1.50}}h{})");
  EXPECT_EQ(shown("Well.\n<function_calls>\nf()\n</function_calls>\n", form), "[Well.\n]f{}");
  for (const std::string broken :
       {"<function_calls>f(city=Oslo)</function_calls>", "<function_calls>f(1)</function_calls>", "<function_calls>f(a=\"b</function_calls>",
        "<function_calls>some words</function_calls>", "<function_calls></function_calls>"})
    EXPECT_EQ(shown(broken, form), "[" + broken + "]");
  const std::string deep(5000, '['), text = "<function_calls>f(a=" + deep + ")</function_calls>";
  EXPECT_EQ(shown(text, form), "[" + text + "]") << "nested too deep";
}

}  // namespace
}  // namespace flexgen::literal_calls_test
