#pragma once
// Files that the words of a command name: what is written must not be what is read, what another flag writes, or a part of the model. Any thread.

#include <string>
#include <vector>

namespace flexgen {

/// What a command does with a file.
enum class FileUse {
  kRead,
  kWritten,       ///< opened, and so checked, before the work begins
  kWrittenAtEnd,  ///< opened when the work is done
  kAddedTo,       ///< read, and replaced by more of the same; what is something else is refused where it is read
};

/// A file, and the flag that names it.
struct NamedFile {
  std::string flag;  ///< "--json", or "the job of --output"
  std::string path;
  FileUse use = FileUse::kRead;
};

/// All files of a command. Of two that are written, the later one is refused.
struct NamedFiles {
  std::vector<NamedFile> files;
  std::string model, revision;  ///< as written after --model and --revision; empty: there is none
};

/// Throws Error{user}, naming the flag, where nothing would be left of a file that another flag names or of the model's, where one of kWrittenAtEnd cannot be written, before hours of work, and where
/// one that is written is called -, which others take for the standard output.
/// Looks at names, links and permissions alone.
void check_named_files(const NamedFiles& named);

}  // namespace flexgen
