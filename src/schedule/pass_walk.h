#pragma once
// walk_pass(): the order of a pass. What is leased, computed, committed and loaded ahead when: the executor walks it with leases and lanes, the cost model with times.
//
// `Driver` has, each given the visit under way:
//   plan(), is_planned()   a micro-batch's plan for the pass is made, once what it did before is known; whether it has something to do
//   begin_pass()      all micro-batches are planned
//   chooses(), knows_choices(), learn_choices(), is_chosen()   whether the pass visits the units of experts alone that its rows have chosen; of the visit's unit: whether that is known, what waits
//                     for it, and whether somebody has chosen it
//   takes_place()     whether this micro-batch has to do with the layer, once that is known
//   acquire()         takes what the visit needs of each store, in their order; what is not loaded ahead queues up
//   compute(), finish()   enqueues the visit, and hands on what it leaves; nothing more is enqueued for it
//   attend_beside(), hold_back(), flush()   where attention runs beside a GPU: the visit up to the end of attention; the stage that follows is held back; what is held back is enqueued, and commits
//   is_held_back(), must_flush()   whether a stage is held back; whether the visit needs what it gives or holds
//   commit_attention(), leave()   what attention wrote goes back; after the last visit of a layer its weights' buffers are free
//   prefetch()        each store issues loads ahead

#include <vector>

#include "model/model.h"
#include "schedule/visit.h"

namespace flexgen {

/// One visit that takes place.
template <class Driver>
void walk_visit(const Visit& visit, const LayerSpec& layer, bool attention_beside, Driver& driver) {
  if (driver.is_held_back() && driver.must_flush(visit)) driver.flush();
  driver.acquire(visit);
  if (layer.cache >= 0 && attention_beside) {
    driver.attend_beside(visit);
    driver.commit_attention(visit);
    driver.flush();  // only now: this visit's first stage goes before the last one's last
    driver.hold_back(visit);
    return;
  }
  driver.compute(visit);
  driver.commit_attention(visit);
  driver.finish(visit);
}

/// All layers for all micro-batches of a group, from its first visit on. False if nobody had anything to do: nothing was touched.
template <class Driver>
bool walk_pass(Visit visit, const std::vector<LayerSpec>& layers, bool attention_beside, Driver& driver) {
  int64_t active = 0;
  for (const auto num_layers = std::ssize(layers); visit.layer < num_layers; visit.advance()) {
    if (visit.layer == 0) {
      if (driver.plan(visit)) ++active;
      if (active == 0 && visit.last_of_layer()) return false;
      if (active == 0) continue;  // nothing may be touched for a pass that may not take place
    }
    const LayerSpec& layer = layers[static_cast<size_t>(visit.layer)];
    if (!driver.is_planned(visit) || layer.cache < 0) driver.flush();
    if (visit.layer == 0 && visit.last_of_layer()) driver.begin_pass(visit);
    if (layer.kind == LayerKind::kExperts && driver.chooses()) {
      if (!driver.knows_choices(visit)) driver.learn_choices(visit);
      if (!driver.is_chosen(visit)) continue;
    }
    if (driver.takes_place(visit)) walk_visit(visit, layer, attention_beside, driver);
    if (!driver.is_held_back()) driver.leave(visit);
    driver.prefetch(visit);
  }
  driver.flush();
  return true;
}

}  // namespace flexgen
