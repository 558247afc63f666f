#include "text/jinja/template.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "text/jinja/json_values.h"

namespace flexgen::jinja::template_test {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

const fs::path kFixtures = fs::path(FLEXGEN_SOURCE_DIR) / "tests" / "fixtures" / "chat";

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

using Variables = std::vector<std::pair<std::string, Value>>;

Variables variables_of(const Value& dict) {
  Variables variables;
  for (const auto& [name, value] : dict.dict()->items()) variables.emplace_back(name.text()->bytes, value);
  return variables;
}

/// A member of a dict as it is, with numbers of any size.
Value member(const Value& dict, const char* name) {
  const Value* found = dict.dict()->find(std::string_view(name));
  return found ? *found : Value(None());
}

/// Where jinja2 gives a text, so does the template; where it raises, the template ends with an error that has a line.
void check_cases(const fs::path& file, bool tolerates_refusals) {
  const Value all = parse_json_value(read(file), 50'000'000);
  const auto now = static_cast<std::time_t>(*member(all, "now").integer());
  const Value input_list = member(all, "inputs");
  const std::vector<Value>& inputs = input_list.list()->items;
  int checked = 0, refused = 0;
  const Value case_list = member(all, "cases");
  for (const Value& one : case_list.list()->items) {
    const Value name = member(one, "file");
    const std::string source = name.text() ? read(file.parent_path() / name.text()->bytes) : member(one, "template").text()->bytes;
    SCOPED_TRACE(member(one, "name").none() ? source : str(name) + " " + str(member(one, "name")) + ": " + str(member(one, "input")));
    const Value variables = inputs[static_cast<size_t>(*member(one, "input").integer())], expected = member(one, "expected");
    ++checked;
    try {
      const std::string text = Template(source).render(variables_of(variables), now);
      if (expected.none()) ADD_FAILURE() << "jinja2 raises; here it gives: " << text;
      else EXPECT_EQ(text, expected.text()->bytes);
    } catch (const TemplateError& error) {
      EXPECT_GE(error.line(), 1);
      if (!expected.none() && !tolerates_refusals) ADD_FAILURE() << "line " << error.line() << ": " << error.what();
      if (!expected.none()) ++refused, std::cout << (name.text() ? name.text()->bytes : source) << " line " << error.line() << ": " << error.what() << "\n";
    }
  }
  EXPECT_GT(checked, 0);
  std::cout << checked << " cases, " << refused << " refused where jinja2 gives a text\n";
}

class JinjaTemplate : public testing::Test {
 protected:
  void SetUp() override {
    setenv("TZ", "Pacific/Kiritimati", 1);  // 14 hours ahead: dates are UTC's, wherever a machine stands
    tzset();
  }
};

TEST_F(JinjaTemplate, AgreesWithJinja2) { check_cases(kFixtures / "cases.json", false); }

/// Cases that tools/compare_chat_templates.py made of templates elsewhere.
TEST_F(JinjaTemplate, CasesFromOutside) {
  const char* file = std::getenv("FLEXGEN_CHAT_CASES");
  if (!file) GTEST_SKIP() << "FLEXGEN_CHAT_CASES names no file of cases (tools/compare_chat_templates.py)";
  check_cases(file, false);
}

std::string error_of(const std::string& source, const Variables& variables = {}) {
  try {
    Template(source).render(variables, 0);
  } catch (const TemplateError& error) {
    return "line " + std::to_string(error.line()) + ": " + error.what();
  }
  return "none";
}

TEST_F(JinjaTemplate, ErrorsNameTheLineAndWhatIsWrong) {
  EXPECT_EQ(error_of("a\nb\n{{ nothing.x }}"), "line 3: 'nothing' is undefined");
  EXPECT_EQ(error_of("{{ 1 }}\n{% if x %}\n\n"), "line 2: a block that begins here has no end: '{% endif %}' is missing");
  EXPECT_EQ(error_of("\n{{ raise_exception('Roles must alternate') }}"), "line 2: Roles must alternate");
  EXPECT_EQ(error_of("{{ 'a'|nosuch }}"), "line 1: there is no filter named 'nosuch'");
  EXPECT_EQ(error_of("{{ 1 is nosuch }}"), "line 1: there is no test named 'nosuch'");
  EXPECT_EQ(error_of("\n\n{% include 'x' %}"), "line 3: '{% include %}' is not supported in chat templates");
  EXPECT_EQ(error_of("{% for x in [] recursive %}{% endfor %}"), "line 1: loops that call themselves ('recursive') are not supported");
  EXPECT_EQ(error_of("{% macro f(x) %}\n{{ x.y.z }}\n{% endmacro %}\n\n{{ f({}) }}"), "line 2: 'dict object' has no attribute 'y'");
  EXPECT_EQ(error_of("{{ [1].append(2) }}"), "line 1: access to attribute 'append' of 'list' object is unsafe.");
  EXPECT_EQ(error_of("{{ 'a\xff' }}"), "line 1: the template is not UTF-8 text");
  EXPECT_EQ(error_of("{{ (x|map('upper')) }}"), "line 1: an iterator has no text; put |list behind what makes it");
}

TEST_F(JinjaTemplate, StrictRefusesWhatIsNotThere) {
  const Variables variables{{"a", "x"}, {"d", make_dict({{"k", "v"}})}};
  const auto strict = [&](const char* source) { return Template(source).render(variables, 0, true); };
  EXPECT_EQ(strict("{{ a }}{{ d.k }}{% if b is defined %}!{% endif %}{{ b | default('-') }}{{ d['n'] | d('+') }}"), "xv-+");
  for (const char* source : {"{{ b }}", "{{ d.n }}", "{{ d['n'] }}", "{% if b %}{% endif %}", "{% for x in b %}{% endfor %}"})
    EXPECT_THROW(strict(source), TemplateError) << source;
  EXPECT_EQ(Template("{{ b }}").render(variables, 0), "");
  EXPECT_TRUE(Template("{% for e in examples %}{% endfor %}").mentions("examples"));
  EXPECT_FALSE(Template("examples {{ a.examples }}").mentions("examples"));
}

TEST_F(JinjaTemplate, WhatCharactersAreIsAskedAsInPython) {
  const auto asked = [](const std::string& text) {
    return Template("{{ [t.isdecimal(), t.isdigit(), t.isnumeric(), t.isalnum(), t.istitle()] | map('int') | join }}").render({{"t", text}}, 0);
  };
  for (const auto& [text, wanted] : std::initializer_list<std::pair<const char*, const char*>>{{"42", "11110"},
                                                                                               {"²", "01110"},
                                                                                               {"½", "00110"},
                                                                                               {"一", "00110"},
                                                                                               {"Ⅷ", "00111"},
                                                                                               {"a½", "00010"},
                                                                                               {"", "00000"},
                                                                                               {"Two Words", "00001"},
                                                                                               {"TWo", "00010"},
                                                                                               {"Two words", "00000"},
                                                                                               {"1st", "00010"}})
    EXPECT_EQ(asked(text), wanted) << text;
}

TEST_F(JinjaTemplate, NumbersAtTheEndsOfTheirRange) {
  const std::string least = "(-9223372036854775807-1)";
  EXPECT_EQ(Template("{{ 'ab'.ljust" + least + " }}{{ 'ab'.center" + least + " }}{{ 'ab'.zfill" + least + " }}").render({}, 0), "ababab");
  EXPECT_EQ(Template("{{ 'abc'|truncate(9223372036854775807) }}").render({}, 0), "abc");
  EXPECT_EQ(error_of("{{ '%*d' % (" + least + ", 1) }}"), "line 1: a format's width or precision is larger than 100000");
  EXPECT_EQ(error_of("{{ 9223372036854775807|round(-1) }}"), "line 1: a whole number does not fit 64 bits");
}

/// Each of these would take all memory, time or stack; each ends with an error, soon.
TEST_F(JinjaTemplate, HostileTemplatesEnd) {
  const auto refused = [](const std::string& source, const char* why) {
    const std::string error = error_of(source);
    EXPECT_NE(error.find(why), std::string::npos) << source.substr(0, 100) << ": " << error;
  };
  refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "levels deep");
  refused("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps");
  refused("{% for a in range(99999) %}{% for b in range(9999) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}", "ends it there");
  refused("{{ 'x' * 999999999999 }}", "MiB");
  refused("{{ [1] * 999999999999 }}", "MiB");
  refused("{{ 'a'.center(99999999999) }}", "MiB");
  refused("{{ 'a'.zfill(99999999999) }}", "MiB");
  refused("{{ '%999999999d' % 1 }}", "width");
  refused("{{ '{:999999999}'.format(1) }}", "width");
  refused("{{ 'a'|indent(99999999999) }}", "MiB");
  refused("{{ [1]|batch(99999999999, 0)|list }}", "MiB");
  refused("{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "MiB");
  refused("{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}", "MiB");
  refused("{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}", "levels deep");
  refused("{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}", "ends it there");
  refused("{% set ns = namespace(l=['xxxxxxxxxxxxxxxx'] * 9999) %}{% for i in range(99999) %}{% set ns.s = ns.l|join|length %}{% endfor %}", "steps");
  refused("{% set ns = namespace(l=['x'] * 1000000) %}{% macro f(n) %}{{ f(*ns.l) }}{{ varargs|length }}{% endmacro %}{{ f(1) }}", "MiB");
  refused("{% set ns = namespace(o='') %}{% for i in range(20) %}{% set ns.o = [ns.o, ns.o, ns.o, ns.o]|tojson %}{% endfor %}", "ends it there");
  std::string escapes = "''";
  for (int i = 0; i < 40; ++i) escapes += "|tojson";
  refused("{{ " + escapes + " }}", "steps");
  refused("{{ 9 ** 9 ** 9 }}", "64 bits");
  refused("{{ range(999999) }}", "too big");
  refused("{{ '" + std::string(200'000, 'x') + "' }}{% set a = [" + std::string(2'000'000, ',') + "] %}", "larger");
  refused("{{ " + std::string(100'000, '(') + std::string(100'000, ')') + " }}", "levels deep");
  refused("{{ " + std::string(100'000, '[') + std::string(100'000, ']') + " }}", "levels deep");
  refused("{{ " + std::string(100'000, '-') + "1 }}", "levels deep");
  std::string deep, chain, elses;
  for (int i = 0; i < 20'000; ++i) deep += "{% if 1 %}", chain += "|string", elses += " if 1";
  refused(deep, "levels deep");
  refused("{{ 1" + chain + " }}", "behind each other");
  refused("{{ 1" + elses + " }}", "behind each other");
  refused("{% for a in [1] %}{{ namespace }}{% endfor %}{% macro f(f) %}{{ f(f) }}{% endmacro %}{{ f(f) }}", "");
}

TEST_F(JinjaTemplate, LongPartsAreLookedForInLinearTime) {
  const std::string a = "'a' * 1000 * 10000", text = "{% set t = 'a' * 1000 * 20000 %}", behind = "(" + a + " ~ 'b')", before = "('b' ~ " + a + ")";
  const auto given = [&](const std::string& expression) { return Template(text + "{{ " + expression + " }}").render({}, 0); };
  EXPECT_EQ(given("t.find(" + behind + ")"), "-1");
  EXPECT_EQ(given("t.rfind(" + before + ")"), "-1");
  EXPECT_EQ(given(behind + " in t"), "False");
  EXPECT_EQ(given("t.count(" + behind + ")"), "0");
  EXPECT_EQ(given("t.replace(" + behind + ", '')|length"), "20000000");
  EXPECT_EQ(given("t.split(" + behind + ")|length"), "1");
  EXPECT_EQ(given("t.rsplit(" + before + ")|length"), "1");
  EXPECT_EQ(given("t.rpartition(" + before + ")[1]"), "");
  EXPECT_EQ(Template("{{ ('a' * 1000000).strip('b' * 1000000 ~ 'a') }}").render({}, 0), "");
  EXPECT_NE(error_of("{% set b = 'b' * 1000000 %}{% for i in range(100) %}{{ 'a'.strip(b) }}{% endfor %}").find("steps"), std::string::npos);
}

TEST_F(JinjaTemplate, PartsAreFoundWhereTheyAre) {
  for (const auto& [expression, wanted] : std::initializer_list<std::pair<const char*, const char*>>{{"'äbäbä'.find('bä')", "1"},
                                                                                                     {"'äbäbä'.rfind('bä')", "3"},
                                                                                                     {"'äbäbä'.find('bä', 2)", "3"},
                                                                                                     {"'ab'.find('')", "0"},
                                                                                                     {"'ab'.rfind('')", "2"},
                                                                                                     {"'ab'.find('abc')", "-1"},
                                                                                                     {"'ab'.rfind('abc')", "-1"},
                                                                                                     {"'' in ''", "True"},
                                                                                                     {"'aaaa'.count('aa')", "2"},
                                                                                                     {"'aaa'.rsplit('aa')|tojson", R"(["a", ""])"},
                                                                                                     {"'a--b--c'.rsplit('--', 1)|tojson", R"(["a--b", "c"])"},
                                                                                                     {"'a--b--c'.rsplit('--')|tojson", R"(["a", "b", "c"])"},
                                                                                                     {"'--a'.rsplit('--')|tojson", R"(["", "a"])"},
                                                                                                     {"'a--b'.rsplit('--', 0)|tojson", R"(["a--b"])"},
                                                                                                     {"'a>b>c'.rpartition('>')[0]", "a>b"},
                                                                                                     {"'äxé'.strip('éä')", "x"},
                                                                                                     {"'\u00e9\u00a9'.strip('\u00e9')|length", "1"}})
    EXPECT_EQ(Template(std::string("{{ ") + expression + " }}").render({}, 0), wanted) << expression;
}

TEST_F(JinjaTemplate, NamespacesThatHoldThemselvesGoAway) {
  // Leaks would show under AddressSanitizer.
  EXPECT_EQ(Template("{% set a = namespace() %}{% set a.b = a %}{% macro f() %}{% endmacro %}{% set a.f = f %}{% set a.g = [a, f] %}{{ a.b.b.g|length }}")
                .render({}, 0),
            "2");
  EXPECT_EQ(Template("{% set ns = namespace(f=none) %}{% macro f() %}{% macro g() %}x{% endmacro %}{% set ns.f = g %}{% endmacro %}{{ f() }}{{ ns.f() }}")
                .render({}, 0),
            "x");
}

TEST_F(JinjaTemplate, LargeInputsAreNoTrouble) {
  std::vector<Value> messages;
  for (int i = 0; i < 20'000; ++i) messages.push_back(make_dict({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", std::string(100, 'x')}}));
  const Template chat("{% for m in messages %}<{{ m.role }}>{{ m['content'] | trim }}</s>{% if loop.last %}.{% endif %}{% endfor %}");
  EXPECT_EQ(chat.render({{"messages", make_list(std::move(messages))}}, 0).size(), 10'000u * (6 + 11) + 20'000 * 104 + 1);
}

TEST(JsonValues, KeepTheOrderAndLargeNumbers) {
  EXPECT_EQ(to_json(parse_json_value(R"({"b": 1, "a": [18446744073709551615, 123456789012345678901234567890, -1, 1.50, null, true, "é"], "b": 2})", 100), {}),
            "{\"b\": 2, \"a\": [18446744073709551615, 123456789012345678901234567890, -1, 1.5, null, true, \"é\"]}");
  const char* written = R"([1.50,-0,0,8871049.19807971049,44846436436264362643,1E5,-7,18446744073709551615])";
  EXPECT_EQ(to_json(parse_json_value(written, 100, nullptr, Digits::kAsWritten), {.between_items = ","}), written);
  EXPECT_EQ(to_json(parse_json_value("[1.50, -0, 1E2]", 100), {}), "[1.5, 0, 100.0]");
  EXPECT_THROW(parse_json_value("[1, 2, 3]", 3), Failure);
  EXPECT_THROW(parse_json_value(std::string(200, '[') + std::string(200, ']'), 1000), Failure);
  EXPECT_THROW(parse_json_value("[1,", 10), Failure);
  EXPECT_THROW(parse_json_value(std::string_view("[1]\0", 4), 10), Failure);
  EXPECT_THROW(parse_json_value(std::string_view("[1]\0[2]", 7), 10), Failure);
}

}  // namespace
}  // namespace flexgen::jinja::template_test
