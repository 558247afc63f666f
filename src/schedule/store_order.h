#pragma once
// The list of stores: which kinds of tensors a process keeps, and in which order they are asked. What has a member for each kind goes by it: the stores of a run, their layouts, and the cost
// model's times. Pure.

#include <cstddef>
#include <tuple>
#include <utility>

namespace flexgen {

/// Each kind, as a visit acquires it and memory is listed. A visit commits in the opposite order, so that rows are sent on before they go back.
template <class Of>
auto all_stores(Of& of) {
  return std::tie(of.weights, of.lookup, of.cache, of.hidden, of.messages);
}

/// Those that load ahead, in that order: the cache's few pages before the weights' piece.
template <class Of>
auto loading_stores(Of& of) {
  return std::tie(of.cache, of.weights, of.hidden);
}

template <class Each, class... Kinds>
void for_each_store(const std::tuple<Kinds...>& stores, Each each) {
  std::apply([&](auto&... store) { (each(store), ...); }, stores);
}

template <class Each, class... Kinds>
void for_each_store_backwards(const std::tuple<Kinds...>& stores, Each each) {
  [&]<size_t... I>(std::index_sequence<I...>) { (each(std::get<sizeof...(I) - 1 - I>(stores)), ...); }
  (std::index_sequence_for<Kinds...>());
}

}  // namespace flexgen
