#include "pipeline/stage_steps.h"

#include "base/error.h"

namespace flexgen {
namespace {

/// Sends bytes that nobody else keeps.
void post(const StageLink& link, int stage, Channel channel, std::vector<std::byte> bytes, double at_s = 0) {
  auto kept = std::make_shared<std::vector<std::byte>>(std::move(bytes));
  link.port->send(stage, channel, *kept, at_s).on_done([kept] {});
}

/// A failure of a visit must not leave the other stages waiting for what it would have given.
void abort_on_failure(const StageLink& link, const Event& done) {
  done.on_done([port = link.port, done] {
    if (done.error()) port->abort(message_of(done.error()));
  });
}

}  // namespace

std::string message_of(std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& exception) {
    return exception.what();
  } catch (...) {
    return "unknown failure";
  }
}

LeadSteps::~LeadSteps() {
  // The others are not to wait for more plans. What is still to come has its place until it is here.
  for (auto& expected : expected_)
    if (expected && !expected->arrived.done()) link_.port->abort("the first stage has ended");
}

std::shared_ptr<BatchPlan> LeadSteps::next(int64_t step, int64_t batch) {
  take(batch);
  PlanMessage message;
  message.plan = batcher_.next(step, batch);
  message.kind = message.plan ? PlanMessage::Kind::kPlan : PlanMessage::Kind::kIdle;
  if (message.plan && message.plan->sink) message.wanted = std::static_pointer_cast<LogitReader>(message.plan->sink)->rows();
  post(link_, link_.stage() + 1, Channel::kPlan, encode(message));
  return message.plan;
}

bool LeadSteps::finished() {
  const bool over = stop_.load(std::memory_order_relaxed) || batcher_.finished();
  post(link_, link_.stage() + 1, Channel::kPlan, encode(PlanMessage{over ? PlanMessage::Kind::kEnd : PlanMessage::Kind::kStep, nullptr, {}}));
  return over;
}

void LeadSteps::submitted(const std::shared_ptr<BatchPlan>& plan) {
  abort_on_failure(link_, plan->done);
  if (!plan->sink) return;
  const auto batch = static_cast<size_t>(plan->batch);
  if (expected_.size() <= batch) expected_.resize(batch + 1);
  FLEXGEN_CHECK(!expected_[batch], "results of micro-batch {} were not taken", batch);
  auto expected = std::make_shared<Expected>();
  expected->reader = std::static_pointer_cast<LogitReader>(plan->sink);
  expected->arrived = link_.port->receive(link_.num_stages() - 1, Channel::kResult, &expected->message);
  expected->arrived.on_done([expected] {});  // kept until nobody writes into the message any more
  expected_[batch] = std::move(expected);
}

void LeadSteps::take(int64_t batch) {
  if (static_cast<size_t>(batch) >= expected_.size() || !expected_[static_cast<size_t>(batch)]) return;
  Expected& expected = *expected_[static_cast<size_t>(batch)];
  expected.arrived.wait();
  expected.reader->set_results(decode_results(expected.message));
  expected_[static_cast<size_t>(batch)].reset();
}

void LeadSteps::settle() {
  for (size_t batch = 0; batch < expected_.size(); ++batch) take(static_cast<int64_t>(batch));
  batcher_.settle();
}

void LeadSteps::failed(std::exception_ptr error) { link_.port->abort(message_of(error)); }

FollowSteps::FollowSteps(StageLink link, int64_t num_batches, int64_t vocab_size, std::span<float> logit_store, std::function<void()> before_step)
    : link_(link), vocab_size_(vocab_size), before_step_(std::move(before_step)), plans_(static_cast<size_t>(num_batches)) {
  const size_t share = logit_store.size() / static_cast<size_t>(num_batches);
  for (size_t i = 0; i < plans_.size(); ++i) logit_stores_.push_back(logit_store.subspan(i * share, share));
}

PlanMessage FollowSteps::receive() {
  std::vector<std::byte> bytes;
  link_.port->receive(link_.stage() - 1, Channel::kPlan, &bytes).wait();
  PlanMessage message = decode_plan(bytes);
  if (!link_.is_last()) post(link_, link_.stage() + 1, Channel::kPlan, std::move(bytes));
  return message;
}

bool FollowSteps::finished() {
  const PlanMessage message = receive();
  FLEXGEN_CHECK(message.kind == PlanMessage::Kind::kStep || message.kind == PlanMessage::Kind::kEnd);
  return message.kind == PlanMessage::Kind::kEnd;
}

std::shared_ptr<BatchPlan> FollowSteps::next(int64_t step, int64_t batch) {
  const auto index = static_cast<size_t>(batch);
  PlanMessage message = receive();
  if (batch == 0 && before_step_) before_step_();
  // So far ahead of the compute lane and no further.
  if (plans_[index]) plans_[index]->done.wait();
  plans_[index] = std::move(message.plan);
  if (message.kind == PlanMessage::Kind::kIdle) return nullptr;
  FLEXGEN_CHECK(message.kind == PlanMessage::Kind::kPlan && plans_[index]->step == step && plans_[index]->batch == batch);
  if (link_.is_last() && !message.wanted.empty())
    plans_[index]->sink = std::make_shared<LogitReader>(std::move(message.wanted), vocab_size_, logit_stores_[index]);
  return plans_[index];
}

void FollowSteps::submitted(const std::shared_ptr<BatchPlan>& plan) {
  abort_on_failure(link_, plan->done);
  if (!plan->sink) return;
  // In the order of the schedule: a lane's work is done in order.
  plan->done.on_done([link = link_, plan = plan, reader = std::static_pointer_cast<LogitReader>(plan->sink), done = plan->done] {
    if (!done.error()) post(link, 0, Channel::kResult, encode(reader->results()), done.virtual_time_s());
  });
}

void FollowSteps::failed(std::exception_ptr error) { link_.port->abort(message_of(error)); }

}  // namespace flexgen
