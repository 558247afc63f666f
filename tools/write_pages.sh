#!/usr/bin/env bash
# Man pages and shell completions, as the program itself prints them. Usage: tools/write_pages.sh FLEXGEN_BINARY FOLDER (as /usr/local/share)
set -euo pipefail
flexgen=$1
share=$2
mkdir -p "$share"/{man/man1,bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
"$flexgen" man-page >"$share/man/man1/flexgen.1"
for command in $("$flexgen" man-page | sed -n 's/^\.BR flexgen\\-\(.*\) (1)$/\1/p' | tr -d '\\'); do
  "$flexgen" man-page "$command" >"$share/man/man1/flexgen-$command.1"
done
"$flexgen" completion bash >"$share/bash-completion/completions/flexgen"
"$flexgen" completion zsh >"$share/zsh/site-functions/_flexgen"
"$flexgen" completion fish >"$share/fish/vendor_completions.d/flexgen.fish"
