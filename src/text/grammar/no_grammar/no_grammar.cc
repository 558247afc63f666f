// Where xgrammar was not there when flexgen was built.

#include "base/error.h"
#include "text/grammar/grammar.h"

namespace flexgen {

std::optional<std::string> why_no_grammars() { return "this build of flexgen has no xgrammar: run tools/install_packages.sh and build it again"; }

void check_grammar(const GrammarSpec&) { fail_user("{}", *why_no_grammars()); }

std::unique_ptr<GrammarCompiler> GrammarCompiler::create(const Tokenizer&, int64_t, std::vector<int32_t>, int64_t) { fail_user("{}", *why_no_grammars()); }

}  // namespace flexgen
