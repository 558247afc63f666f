#include "batch/choice_store.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace flexgen::choice_store_test {
namespace {

std::string text_of(RecordText& record, size_t room) {
  std::string text, piece(room, '\0');
  while (const size_t count = record.read(piece.data(), room)) text += piece.substr(0, count);
  return text;
}

TEST(ChoiceStore, GivesBackWhatWasPutInWithinItsMemory) {
  for (int64_t memory : {int64_t{0}, int64_t{1000}, ChoiceStore::kBlockBytes, ChoiceStore::kDefaultMemory}) {
    std::mt19937_64 random(7);
    ChoiceStore store("", memory);
    std::map<int64_t, std::vector<std::string>> lines;
    for (int64_t line = 0; line < 60; ++line) {
      const auto choices = static_cast<size_t>(1 + random() % (line % 10 == 0 ? 3000 : 5));
      store.open(line, static_cast<int64_t>(choices));
      lines[line].resize(choices);
      // Some choices of each open line.
      for (auto& [open, texts] : lines)
        for (int i = 0; i < 200; ++i) {
          const size_t choice = random() % texts.size();
          if (!texts[choice].empty()) continue;
          for (uint64_t pieces = 1 + random() % 3; pieces > 0; --pieces) {
            const std::string piece(1 + random() % (choice % 50 == 0 ? 100000 : 50), static_cast<char>('a' + random() % 26));
            texts[choice] += piece;
            store.add(open, static_cast<int64_t>(choice), piece);
            ASSERT_LE(store.held(), memory + 100000);
          }
        }
      if (lines.size() < 4 && line < 59) continue;
      const auto ended = lines.begin();
      std::string expected = "<";
      for (size_t i = 0; i < ended->second.size(); ++i) expected += (i > 0 ? "," : "") + ended->second[i];
      expected += ">";
      const auto record = store.record(ended->first, "<", ">");
      ASSERT_EQ(text_of(*record, 1 << 20), expected);
      record->rewind();
      ASSERT_EQ(text_of(*record, 777), expected);
      store.close(ended->first);
      lines.erase(ended);
    }
  }
}

}  // namespace
}  // namespace flexgen::choice_store_test
