// Grammars by xgrammar.

#include <dlpack/dlpack.h>
#include <xgrammar/xgrammar.h>

#include <algorithm>
#include <list>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "text/grammar/grammar.h"
#include "text/grammar/pattern.h"
#include "text/grammar/xgrammar/ebnf_text.h"

namespace flexgen {
namespace {

/// What xgrammar has warned of in this thread: mostly a part of a schema that it would pass over.
thread_local std::vector<std::string> xgrammar_warnings;

constexpr int kWarningLevel = 2;

struct XgrammarError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Without the first line's place in xgrammar's own source.
std::string reason(const std::exception& error) {
  std::string text = error.what();
  const size_t end = text.find_last_not_of(" \n");
  text.resize(end == std::string::npos ? 0 : end + 1);
  return text;
}

xgrammar::Grammar json_grammar(const std::string& schema, bool any_whitespace) {
  return xgrammar::Grammar::FromJSONSchema(schema, any_whitespace, std::nullopt, std::nullopt, true,
                                           any_whitespace ? std::optional(kMostBlanks) : std::nullopt);
}

xgrammar::Grammar structure_grammar(const std::string& format) {
  auto made = xgrammar::Grammar::FromStructuralTag(R"({"type":"structural_tag","format":)" + format + "}");
  if (auto* error = std::get_if<xgrammar::StructuralTagError>(&made)) std::visit([](const auto& one) { throw XgrammarError(one.what()); }, *error);
  return std::get<xgrammar::Grammar>(made);
}

/// Short patterns as one automaton: of rules that call each other, as others become, it is kept in mind where each has begun, and a text that they can read in many ways ((\w+\s?)*x) takes
/// a tenth of a second a token and more. An automaton has many states where there are counts: masks of .{1,256} take milliseconds.
xgrammar::Grammar regex_grammar(const std::string& regex) {
  constexpr double kMostOfAutomaton = 128;
  double characters = 0;
  const std::string plain = plain_pattern(regex, PatternPlace::kAnswer, &characters);
  const xgrammar::Grammar rules = xgrammar::Grammar::FromRegex(plain);
  if (characters > kMostOfAutomaton) return rules;
  try {
    const xgrammar::Grammar automaton = xgrammar::Grammar::FromEBNF("root ::= Regex(" + ebnf_text(plain) + ")");
    // Whether it can be one is known once it is compiled; without tokens that is no work.
    xgrammar::GrammarCompiler(xgrammar::TokenizerInfo(std::vector<std::string>()), 1, false).CompileGrammar(automaton);
    return automaton;
  } catch (const std::runtime_error&) {
    return rules;
  }
}

xgrammar::Grammar grammar_of_kind(const GrammarSpec& spec) {
  using Kind = GrammarSpec::Kind;
  switch (spec.kind) {
    case Kind::kJsonObject: return json_grammar(R"({"type":"object","additionalProperties":true})", spec.any_whitespace);
    case Kind::kJsonSchema: return json_grammar(spec.text, spec.any_whitespace);
    case Kind::kRegex: return regex_grammar(spec.text);
    case Kind::kEbnf: check_ebnf(spec.text); return xgrammar::Grammar::FromEBNF(spec.text);
    case Kind::kStructure: return structure_grammar(spec.text);
    case Kind::kChoice: break;
  }
  std::string text = "root ::= ";
  for (size_t i = 0; i < spec.choices.size(); ++i) text += (i > 0 ? " | " : "") + ebnf_text(spec.choices[i]);
  return xgrammar::Grammar::FromEBNF(text);
}

/// With what stands around it, or instead of all that.
xgrammar::Grammar whole_grammar(const GrammarSpec& spec) {
  xgrammar::Grammar grammar = grammar_of_kind(spec);
  if (!spec.before.empty()) grammar = xgrammar::Grammar::Concat({structure_grammar(spec.before), grammar});
  if (!spec.after.empty()) grammar = xgrammar::Grammar::Concat({grammar, structure_grammar(spec.after)});
  if (!spec.instead.empty()) grammar = xgrammar::Grammar::Union({grammar, structure_grammar(spec.instead)});
  return grammar;
}

/// A warning without what xgrammar would do then: here the grammar is refused.
std::string only_why(std::string warning) {
  for (const char* then : {"; falling back", "; ignoring", " and is ignored"})
    if (const size_t at = warning.find(then); at != std::string::npos) warning.resize(at);
  return warning;
}

/// Throws Error{user}.
xgrammar::Grammar grammar_of(const GrammarSpec& spec) {
  xgrammar_warnings.clear();
  try {
    xgrammar::Grammar grammar = whole_grammar(spec);
    if (xgrammar_warnings.empty()) return grammar;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    fail_user("cannot be followed: {}", reason(error));
  }
  fail_user("cannot be followed whole: {}", only_why(xgrammar_warnings.front()));
}

/// Whether a text ends within a character; its last three bytes tell.
bool ends_in_character(std::string_view text) {
  for (size_t i = 1; i <= std::min<size_t>(3, text.size()); ++i) {
    const auto byte = static_cast<unsigned char>(text[text.size() - i]);
    if ((byte & 0xc0) != 0x80) return byte >= 0xc0 && i < (byte >= 0xf0 ? 4u : byte >= 0xe0 ? 3u : 2u);
  }
  return false;
}

/// Tokens that would make a text that is not UTF-8: xgrammar's classes of characters have halves of surrogate pairs, and sequences that are too long for their character.
class TokensOfUtf8 {
 public:
  explicit TokensOfUtf8(const std::vector<std::string>& tokens) {
    for (size_t token = 0; token < tokens.size(); ++token) {
      const std::string& bytes = tokens[token];
      bool never = false;
      for (size_t i = 1; i < bytes.size(); ++i) never = never || !may_follow(bytes[i - 1], bytes[i]);
      if (never) never_.push_back(static_cast<int32_t>(token));
      else if (!bytes.empty() && (bytes[0] & 0xc0) == 0x80) continuing_.emplace_back(static_cast<int32_t>(token), bytes[0]);
    }
  }

  /// Whether the token may come behind `tail`, the last bytes of the answer.
  bool takes(std::string_view tail, int32_t token) const {
    if (std::binary_search(never_.begin(), never_.end(), token)) return false;
    const auto found =
        std::lower_bound(continuing_.begin(), continuing_.end(), std::pair(token, '\0'), [](const auto& a, const auto& b) { return a.first < b.first; });
    return tail.empty() || found == continuing_.end() || found->first != token || may_follow(tail.back(), found->second);
  }
  void narrow(std::string_view tail, TokenMask& words) const {
    for (int32_t token : never_) leave_out(words, token);
    if (tail.empty() || may_follow(tail.back(), '\x80') == may_follow(tail.back(), '\xbf')) return;
    for (const auto& [token, byte] : continuing_)
      if (!may_follow(tail.back(), byte)) leave_out(words, token);
  }

 private:
  /// Of the second bytes of a character (Unicode 16, table 3-7).
  static bool may_follow(char first, char second) {
    const auto a = static_cast<unsigned char>(first), b = static_cast<unsigned char>(second);
    if ((b & 0xc0) != 0x80) return true;
    return a == 0xe0 ? b >= 0xa0 : a == 0xed ? b < 0xa0 : a == 0xf0 ? b >= 0x90 : a == 0xf4 ? b < 0x90 : true;
  }

  std::vector<int32_t> never_;
  std::vector<std::pair<int32_t, char>> continuing_;  ///< with their first byte, one within a character
};

class XgrammarMatcher : public GrammarMatcher {
 public:
  /// `tokens`, `utf8`: of the compiler. `tries_out`: masks may hold tokens that cannot come, and each is tried.
  XgrammarMatcher(const xgrammar::CompiledGrammar& grammar, int64_t vocab_size, xgrammar::TokenizerInfo tokens, std::shared_ptr<const TokensOfUtf8> utf8,
                  bool tries_out)
      : matcher_(grammar), vocab_size_(vocab_size), tokens_(std::move(tokens)), utf8_(std::move(utf8)), tries_out_(tries_out) {}

  bool accept(int32_t token) override {
    if (matcher_.IsTerminated() || !utf8_->takes(tail_, token) || !matcher_.AcceptToken(token)) return false;
    tail_ += tokens_.GetDecodedVocab()[static_cast<size_t>(token)];
    if (tail_.size() > 3) tail_.erase(0, tail_.size() - 3);
    return true;
  }

  TokenMask mask() override {
    TokenMask words(static_cast<size_t>(xgrammar::GetBitmaskSize(static_cast<int>(vocab_size_))), 0);
    if (matcher_.IsTerminated()) return words;
    int64_t shape = std::ssize(words);
    DLTensor tensor{words.data(), {kDLCPU, 0}, 1, xgrammar::GetBitmaskDLType(), &shape, nullptr, 0};
    if (!matcher_.FillNextTokenBitmask(&tensor)) std::fill(words.begin(), words.end(), ~uint32_t{0});
    utf8_->narrow(tail_, words);
    if (tries_out_ && ends_in_character(tail_)) try_out(words);
    return words;
  }

  bool ended() const override { return matcher_.IsTerminated(); }

 private:
  /// Where a class of characters is repeated more than 128 times ([а-я]{0,200}), xgrammar 0.2.8 lets any bytes follow those that end a character that had begun. There are few such states, and few tokens that go on there.
  void try_out(TokenMask& words) {
    for (int32_t token = 0; token < vocab_size_; ++token) {
      if (!may_come(words, token)) continue;
      if (matcher_.AcceptToken(token)) matcher_.Rollback(1);
      else leave_out(words, token);
    }
  }

  xgrammar::GrammarMatcher matcher_;
  int64_t vocab_size_;
  xgrammar::TokenizerInfo tokens_;
  std::shared_ptr<const TokensOfUtf8> utf8_;
  bool tries_out_;
  std::string tail_;  ///< the last bytes of the answer
};

class XgrammarCompiler : public GrammarCompiler {
 public:
  XgrammarCompiler(const Tokenizer& tokenizer, int64_t vocab_size, std::vector<int32_t> ends, int64_t cache_bytes)
      : vocab_size_(vocab_size), cache_bytes_(cache_bytes), tokens_(token_info(tokenizer, vocab_size, std::move(ends))),
        utf8_(std::make_shared<TokensOfUtf8>(tokens_.GetDecodedVocab())), compiler_(tokens_, 1, false) {}

  std::unique_ptr<GrammarMatcher> start(const GrammarSpec& spec) override {
    if (std::unique_ptr<GrammarMatcher> kept = start_kept(spec)) return kept;
    const xgrammar::CompiledGrammar grammar = compiled(spec);
    keep(spec, grammar);
    return matcher(spec, grammar);
  }

  std::unique_ptr<GrammarMatcher> start_kept(const GrammarSpec& spec) override {
    std::unique_lock lock(mutex_);
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) { return kept.spec == spec; });
    if (found == kept_.end()) return nullptr;
    kept_.splice(kept_.begin(), kept_, found);
    const xgrammar::CompiledGrammar grammar = found->grammar;
    lock.unlock();
    return matcher(spec, grammar);
  }

 private:
  struct Kept {
    GrammarSpec spec;
    xgrammar::CompiledGrammar grammar;
    int64_t bytes;
  };

  /// Without the lock: it may take seconds.
  xgrammar::CompiledGrammar compiled(const GrammarSpec& spec) {
    try {
      return compiler_.CompileGrammar(grammar_of(spec));
    } catch (const std::runtime_error& error) {
      if (dynamic_cast<const Error*>(&error)) throw;
      fail_user("cannot be followed: {}", reason(error));
    }
  }

  void keep(const GrammarSpec& spec, const xgrammar::CompiledGrammar& grammar) {
    std::lock_guard lock(mutex_);
    kept_.push_front({spec, grammar, static_cast<int64_t>(grammar.MemorySizeBytes())});
    bytes_ += kept_.front().bytes;
    while (bytes_ > cache_bytes_ && kept_.size() > 1) {
      bytes_ -= kept_.back().bytes;
      kept_.pop_back();
    }
  }

  std::unique_ptr<GrammarMatcher> matcher(const GrammarSpec& spec, const xgrammar::CompiledGrammar& grammar) const {
    // Patterns of schemas have no such state: they are compiled in another way.
    const bool tries_out = spec.kind == GrammarSpec::Kind::kRegex || spec.kind == GrammarSpec::Kind::kEbnf;
    return std::make_unique<XgrammarMatcher>(grammar, vocab_size_, tokens_, utf8_, tries_out);
  }

  static xgrammar::TokenizerInfo token_info(const Tokenizer& tokenizer, int64_t vocab_size, std::vector<int32_t> ends) {
    std::vector<std::string> bytes;
    for (int32_t token = 0; token < vocab_size; ++token) {
      bytes.push_back(tokenizer.token_bytes(token));
      // xgrammar takes no token without bytes, not even where a grammar asks for it by its id. These are none of any text.
      if (bytes.back().empty() && token < tokenizer.vocab_size() && !tokenizer.token_text(token).empty()) bytes.back() = "\xff" + tokenizer.token_text(token);
    }
    return xgrammar::TokenizerInfo(bytes, xgrammar::VocabType::RAW, static_cast<int>(vocab_size), std::move(ends));
  }

  const int64_t vocab_size_, cache_bytes_;
  xgrammar::TokenizerInfo tokens_;
  std::shared_ptr<const TokensOfUtf8> utf8_;
  xgrammar::GrammarCompiler compiler_;  // without a cache of its own it changes nothing of itself
  std::mutex mutex_;                    ///< of what follows
  std::list<Kept> kept_;                ///< the newest first
  int64_t bytes_ = 0;
};

}  // namespace

std::optional<std::string> why_no_grammars() { return std::nullopt; }

void check_grammar(const GrammarSpec& spec) { static_cast<void>(grammar_of(spec)); }

std::unique_ptr<GrammarCompiler> GrammarCompiler::create(const Tokenizer& tokenizer, int64_t vocab_size, std::vector<int32_t> ends, int64_t cache_bytes) {
  FLEXGEN_CHECK(!ends.empty());
  return std::make_unique<XgrammarCompiler>(tokenizer, vocab_size, std::move(ends), cache_bytes);
}

}  // namespace flexgen

// xgrammar is compiled to hand its messages over (XGRAMMAR_LOG_CUSTOMIZE).
namespace xgrammar {

[[noreturn]] void LogFatalImpl(const std::string& file, int lineno, const std::string& message);
void LogMessageImpl(const std::string& file, int lineno, int level, const std::string& message);

void LogFatalImpl(const std::string&, int, const std::string& message) { throw flexgen::XgrammarError(message); }

void LogMessageImpl(const std::string&, int, int level, const std::string& message) {
  if (level >= flexgen::kWarningLevel) flexgen::xgrammar_warnings.push_back(message);
}

}  // namespace xgrammar
