#include "batch/choice_store.h"

#include "base/error.h"

namespace flexgen {
namespace {

constexpr int64_t kFewChoices = 64;  // of a line: where they lie is kept with the line

}  // namespace

std::string choice_front(int64_t index) { return fmt::format(R"({{"index":{})", index); }

/// Before, choices with commas between them, after.
class ChoiceStore::Record : public RecordText {
 public:
  Record(ChoiceStore& store, const Line& line, std::string before, std::string after, std::vector<int64_t> picked)
      : store_(store), line_(line), before_(std::move(before)), after_(std::move(after)), picked_(std::move(picked)) {
    set_separator();
  }

  size_t read(char* data, size_t room) override {
    size_t count = 0;
    while (count < room) {
      const size_t more = read_some(data + count, room - count);
      if (more == 0 && !next_part()) break;
      count += more;
    }
    return count;
  }
  void rewind() override {
    part_ = at_ = 0;
    set_separator();
  }

 private:
  /// Parts are: before, choice 0, comma, choice 1, ..., after.
  int64_t last_part() const { return 2 * (picked_.empty() ? line_.num_choices : std::ssize(picked_)); }
  /// What stands before, between and after choices, at an even part.
  void set_separator() {
    separator_ = part_ == 0 ? before_ : part_ == last_part() ? after_ : ",";
    if (!picked_.empty() && part_ != last_part()) separator_ += choice_front(part_ / 2);
  }
  bool next_part() {
    if (part_ == last_part()) return false;
    ++part_;
    at_ = 0;
    if (part_ % 2 == 0) set_separator();
    return true;
  }
  size_t read_some(char* data, size_t room) {
    if (part_ % 2 == 1) {
      const Where where = store_.where(line_, picked_.empty() ? part_ / 2 : picked_[static_cast<size_t>(part_ / 2)]);
      const auto left = static_cast<size_t>(where.bytes - at_);
      const size_t count = left == 0 ? 0 : store_.read(line_, where.offset + at_, data, std::min(room, left));
      at_ += static_cast<int64_t>(count);
      return count;
    }
    const size_t count = separator_.copy(data, room, static_cast<size_t>(at_));
    at_ += static_cast<int64_t>(count);
    return count;
  }

  ChoiceStore& store_;
  const Line& line_;
  std::string before_, after_, separator_;
  std::vector<int64_t> picked_;
  int64_t part_ = 0, at_ = 0;
};

ChoiceStore::ChoiceStore(const std::string& directory, int64_t memory_bytes)
    : place_{directory, "finished choices of unfinished lines"}, memory_bytes_(memory_bytes), many_(place_) {}

void ChoiceStore::open(int64_t line, int64_t num_choices) {
  if (lines_.empty()) many_ = SpilledRecords<Where>(place_);
  Line& opened = lines_[line];
  opened.num_choices = num_choices;
  if (num_choices <= kFewChoices) {
    opened.where.resize(static_cast<size_t>(num_choices));
    return;
  }
  opened.first_where = many_.size();
  for (int64_t i = 0; i < num_choices; ++i) many_.push_back({});
}

ChoiceStore::Where ChoiceStore::where(const Line& line, int64_t choice) {
  return line.first_where < 0 ? line.where[static_cast<size_t>(choice)] : many_[line.first_where + choice];
}

void ChoiceStore::set_where(Line& line, int64_t choice, const Where& where) {
  if (line.first_where < 0) line.where[static_cast<size_t>(choice)] = where;
  else many_.set(line.first_where + choice, where);
}

void ChoiceStore::add(int64_t line_index, int64_t choice, std::string_view piece) {
  Line& line = lines_.at(line_index);
  FLEXGEN_CHECK(choice >= 0 && choice < line.num_choices, "choice {} of {}", choice, line.num_choices);
  const int64_t end = line.bytes_in_file + static_cast<int64_t>(line.tail.size()), bytes = static_cast<int64_t>(piece.size());
  Where where = this->where(line, choice);
  if (where.bytes == 0) where.offset = end;
  FLEXGEN_CHECK(where.offset + where.bytes == end);
  where.bytes += bytes;
  set_where(line, choice, where);
  line.tail += piece;
  held_ += bytes;
  if (held_ > memory_bytes_) spill(line);
}

void ChoiceStore::spill(Line& line) {
  if (!file_) file_.emplace(place_.directory, place_.purpose);
  if (line.bytes_in_file == 0) ++lines_in_file_;
  for (std::string_view rest = line.tail; !rest.empty();) {
    const int64_t within = line.bytes_in_file % kBlockBytes;
    if (within == 0) {
      if (free_blocks_.empty()) free_blocks_.push_back(num_blocks_++);
      line.blocks.push_back(free_blocks_.back());
      free_blocks_.pop_back();
    }
    const std::string_view part = rest.substr(0, static_cast<size_t>(kBlockBytes - within));
    file_->write(line.blocks.back() * kBlockBytes + within, std::as_bytes(std::span(part)));
    line.bytes_in_file += static_cast<int64_t>(part.size());
    rest.remove_prefix(part.size());
  }
  held_ -= static_cast<int64_t>(line.tail.size());
  line.tail = std::string();
}

size_t ChoiceStore::read(const Line& line, int64_t offset, char* data, size_t room) {
  if (offset >= line.bytes_in_file) {
    const auto at = static_cast<size_t>(offset - line.bytes_in_file);
    const size_t count = std::min(room, line.tail.size() - at);
    std::memcpy(data, line.tail.data() + at, count);
    return count;
  }
  const int64_t within = offset % kBlockBytes;
  const int64_t count = std::min({static_cast<int64_t>(room), kBlockBytes - within, line.bytes_in_file - offset});
  file_->read(line.blocks[static_cast<size_t>(offset / kBlockBytes)] * kBlockBytes + within,
              std::as_writable_bytes(std::span(data, static_cast<size_t>(count))));
  return static_cast<size_t>(count);
}

std::unique_ptr<RecordText> ChoiceStore::record(int64_t line, std::string before, std::string after, std::vector<int64_t> picked) {
  return std::make_unique<Record>(*this, lines_.at(line), std::move(before), std::move(after), std::move(picked));
}

void ChoiceStore::close(int64_t line) {
  const auto found = lines_.find(line);
  held_ -= static_cast<int64_t>(found->second.tail.size());
  const bool in_file = found->second.bytes_in_file > 0;
  free_blocks_.insert(free_blocks_.end(), found->second.blocks.begin(), found->second.blocks.end());
  lines_.erase(found);
  if (!in_file || --lines_in_file_ > 0) return;
  // Nothing is in the file: give its room back.
  file_.reset();
  free_blocks_ = {};
  num_blocks_ = 0;
}

}  // namespace flexgen
