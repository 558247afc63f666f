#pragma once
// RowPrompts: what is asked of the model for a row of a table: the template written out, with the examples before it. One thread.

#include <string>
#include <utility>
#include <vector>

#include "tables/shots.h"
#include "tables/table_reader.h"
#include "text/jinja/template.h"

namespace flexgen {

/// A message of a conversation, as chat templates take it.
struct Message {
  std::string role, content;
};

class RowPrompts {
 public:
  /// `source`: the template, `name` for messages. `shots`: none if it is empty. `system`: what a conversation begins with; empty: nothing. Throws Error{user} for a template that is broken.
  RowPrompts(const std::string& source, std::string name, Shots shots, std::string system);

  /// Whether the template has a place for the examples itself (it uses `examples`).
  bool places_shots() const { return places_shots_; }
  /// As one text: where the template has no place for them, each example is the template's text for it, its answer, and a blank line.
  /// Throws Error{user} with the row and the template's line, for a name that is no column above all.
  std::string text(const TableReader& table, const TableRow& row) const;
  /// As a conversation: examples are questions and answers in it, unless the template has a place for them.
  std::vector<Message> messages(const TableReader& table, const TableRow& row) const;

 private:
  std::string write_out(const std::string& place, const TableRow& row, const std::vector<std::string>& columns, const jinja::Value& examples) const;
  /// By their numbers in all_, the examples that a row is shown: the same for all, but for a row that is one of them.
  std::vector<size_t> shown_to(const TableRow& row) const;
  std::string for_row(const TableReader& table, const TableRow& row) const;

  std::string name_;
  jinja::Template template_;
  size_t num_shots_ = 0;
  std::vector<size_t> spare_of_;         ///< Shots::spare_of
  std::vector<Shot> all_;                ///< shots, and spares behind them
  std::vector<std::string> shot_texts_;  ///< the template for each of these, where it has no place for them
  std::string system_;
  bool places_shots_ = false;
  std::vector<jinja::Value> examples_;  ///< each of these, where it has
};

/// What comes before an answer, so that it stands apart from what was asked: a blank, unless one is there.
std::string_view gap_behind(std::string_view text);

}  // namespace flexgen
