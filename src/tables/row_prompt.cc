#include "tables/row_prompt.h"

#include <cctype>
#include <iterator>
#include <optional>

#include "base/error.h"

namespace flexgen {
namespace {

constexpr const char* kRowName = "row";
constexpr const char* kExamplesName = "examples";

jinja::Template compiled(const std::string& source, const std::string& name) {
  try {
    return jinja::Template(source);
  } catch (const jinja::TemplateError& error) {
    fail_user("{} line {}: {}", name, error.line(), error.what());
  }
}

/// A row as a dict, its columns by their names.
jinja::Value dict_of_row(const TableRow& row, const std::vector<std::string>& columns) {
  if (row.object.dict()) return row.object;
  std::vector<jinja::Dict::Item> items;
  for (size_t i = 0; i < columns.size(); ++i) items.emplace_back(columns[i], row.cells[i]);
  return jinja::make_dict(std::move(items));
}

/// "a, b, c and 4 more".
std::string names_of_columns(const jinja::Dict& row) {
  constexpr size_t kNamedColumns = 20;
  std::string names;
  const size_t count = row.items().size();
  for (size_t i = 0; i < std::min(count, kNamedColumns); ++i) names += (i > 0 ? ", " : "") + row.items()[i].first.text()->bytes;
  return count > kNamedColumns ? fmt::format("{} and {} more", names, count - kNamedColumns) : names;
}

}  // namespace

std::string_view gap_behind(std::string_view text) { return text.empty() || std::isspace(static_cast<unsigned char>(text.back())) ? "" : " "; }

RowPrompts::RowPrompts(const std::string& source, std::string name, Shots shots, std::string system)
    : name_(std::move(name)), template_(compiled(source, name_)), num_shots_(shots.shots.size()), spare_of_(std::move(shots.spare_of)),
      all_(std::move(shots.shots)), system_(std::move(system)), places_shots_(num_shots_ > 0 && template_.mentions(kExamplesName)) {
  if (template_.mentions("strftime_now"))
    fail_user("{} uses strftime_now: prompts would change from day to day; write the date out, or have it in a column", name_);
  all_.insert(all_.end(), std::make_move_iterator(shots.spares.begin()), std::make_move_iterator(shots.spares.end()));
  for (const Shot& shot : all_) {
    if (places_shots_) examples_.push_back(dict_of_row(shot.row, shots.columns));
    else shot_texts_.push_back(write_out(fmt::format("--examples row {}", shot.row.number), shot.row, shots.columns, {}));
  }
}

std::vector<size_t> RowPrompts::shown_to(const TableRow& row) const {
  std::vector<size_t> shown;
  std::optional<size_t> own;
  for (size_t i = 0; i < num_shots_; ++i)
    if (spare_of_.empty() || all_[i].row.number != row.number) shown.push_back(i);
    else own = i;
  if (own) shown.push_back(num_shots_ + spare_of_[*own]);
  return shown;
}

std::string RowPrompts::for_row(const TableReader& table, const TableRow& row) const {
  if (!places_shots_) return write_out(table.place(row), row, table.columns(), {});
  std::vector<jinja::Value> examples;
  for (const size_t i : shown_to(row)) examples.push_back(examples_[i]);
  return write_out(table.place(row), row, table.columns(), jinja::make_list(std::move(examples)));
}

std::string RowPrompts::write_out(const std::string& place, const TableRow& row, const std::vector<std::string>& columns, const jinja::Value& examples) const {
  const jinja::Value dict = dict_of_row(row, columns);
  std::vector<std::pair<std::string, jinja::Value>> variables;
  for (const auto& [name, value] : dict.dict()->items()) {
    if (!template_.mentions(name.text()->bytes)) continue;
    if (name.text()->bytes == kRowName || (places_shots_ && name.text()->bytes == kExamplesName))
      fail_user("{}: the template uses '{}', which is a column, and also what templates call {}; rename the column", place, name.text()->bytes,
                name.text()->bytes == kRowName ? "the whole row" : "the examples");
    variables.emplace_back(name.text()->bytes, value);
  }
  variables.emplace_back(kRowName, dict);
  if (places_shots_) variables.emplace_back(kExamplesName, examples);
  try {
    return template_.render(variables, 0, true);
  } catch (const jinja::TemplateError& error) {
    const std::string names = names_of_columns(*dict.dict());
    // As spreadsheets write CSV where commas stand in numbers.
    const bool semicolons = dict.dict()->items().size() == 1 && names.find(';') != std::string::npos;
    fail_user("{}: {} line {}: {}{}{}", place, name_, error.line(), error.what(), error.raised() ? "" : fmt::format("; the columns are {}", names),
              semicolons ? ", one; commas separate columns in CSV, so save the table with commas in the place of semicolons" : "");
  }
}

std::string RowPrompts::text(const TableReader& table, const TableRow& row) const {
  std::string text;
  if (!places_shots_)
    for (const size_t i : shown_to(row)) {
      text += shot_texts_[i];
      text += gap_behind(shot_texts_[i]);
      text += all_[i].answer;
      text += "\n\n";
    }
  return text + for_row(table, row);
}

std::vector<Message> RowPrompts::messages(const TableReader& table, const TableRow& row) const {
  std::vector<Message> messages;
  if (!system_.empty()) messages.push_back({"system", system_});
  if (!places_shots_)
    for (const size_t i : shown_to(row)) {
      messages.push_back({"user", shot_texts_[i]});
      messages.push_back({"assistant", all_[i].answer});
    }
  messages.push_back({"user", for_row(table, row)});
  return messages;
}

}  // namespace flexgen
