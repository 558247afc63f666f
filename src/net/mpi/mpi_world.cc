// The world over MPI. One thread makes all calls of the library: it takes sends and receives from the others, polls for what comes in, and watches over the
// peers. It sleeps between polls, as the cores have better things to do than to spin.

#include <mpi.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <future>
#include <list>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "base/error.h"
#include "base/report.h"
#include "base/thread.h"
#include "net/local_ranks.h"
#include "net/message.h"
#include "net/world.h"

namespace flexgen {
namespace {

using Clock = std::chrono::steady_clock;

/// Bulky messages go in pieces, so that signs of life do not queue behind them for long.
constexpr size_t kPieceBytes = 1 << 20;
/// Pieces to one peer that are under way.
constexpr size_t kWindow = 32;
constexpr int kBeatTag = kNumChannels, kAbortTag = kNumChannels + 1;
constexpr double kBeatInterval_s = 1;
/// How long all ranks may take to come up, at least, where none of them is seen to be stopped: a busy machine is slow.
constexpr double kShortestStart_s = 20;
constexpr double kShortestSleep_s = 20e-6, kLongestSleep_s = 1e-3;
/// How long the reason of an abort may take on its way to the peers, and how long a process may take to end after it.
constexpr double kFarewell_s = 0.5, kGrace_s = 5;

bool bulky(Channel channel) { return channel == Channel::kHidden; }
double seconds_between(Clock::time_point a, Clock::time_point b) { return std::chrono::duration<double>(b - a).count(); }

/// A copy from process to process takes system calls that containers often forbid, and Open MPI then complains at each message.
bool may_copy_between_processes() {
  char from = 1, to = 0;
  const iovec here{&to, 1}, there{&from, 1};
  return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == 1;
}

std::string names_of(const std::vector<LocalRank>& ranks) {
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  std::string text;
  for (const LocalRank& rank : ranks) text += fmt::format("{}rank {} on {} (process {})", text.empty() ? "" : ", ", rank.rank, host, rank.pid);
  return text;
}

/// Waits for what takes all ranks: coming up, or coming to an end (`where`). False, and the user has been told, if one of this machine is stopped for `timeout_s`, or it all takes
/// too long. Nobody knows the others then, so the ranks of this machine are looked for in /proc.
bool come_by(std::future<void>& all, double timeout_s, const char* where) {
  const std::string job = launched_job([](const char* name) -> const char* { return std::getenv(name); });
  const auto begin = Clock::now();
  const double limit_s = std::max(timeout_s, kShortestStart_s);
  StoppedRanks stopped;
  std::vector<LocalRank> ranks;
  auto speak = [&](const std::string& text) {
    // The first rank that runs speaks and ends the job; the others follow if it does not.
    int before = 0;
    for (const LocalRank& rank : ranks) before += !rank.stopped && rank.pid < getpid();
    if (all.wait_for(std::chrono::milliseconds(500 * std::min(before, 6))) == std::future_status::ready) return true;
    fmt::print(stderr, "flexgen: {}\n", text);
    return false;
  };
  while (all.wait_for(std::chrono::seconds(1)) != std::future_status::ready) {
    const double waited_s = seconds_between(begin, Clock::now());
    ranks = local_ranks(job);
    stopped.look(ranks, waited_s);
    const std::vector<LocalRank> lost = stopped.longer_than(timeout_s - 1);
    if (!lost.empty())
      return speak(fmt::format(
          "{}: stopped for {:.0f} s (by SIGSTOP or a debugger), and all others wait for it; finished answers are kept: see to it, and run the same command "
          "again",
          names_of(lost), timeout_s));
    if (waited_s > limit_s)
      return speak(fmt::format(
          "not all processes of the job have come {} within {:.0f} s: one is dead, hangs or cannot be reached{}; see to it, and run the same command again",
          where, limit_s, ranks.empty() ? "" : fmt::format(" (on this machine there are {}, and none is stopped)", names_of(ranks))));
  }
  return true;
}

class MpiWorld : public World, private Port {
 public:
  explicit MpiWorld(const WorldOptions& options) : options_(options) {
    std::promise<void> joined;
    thread_ = start_thread("messages between the processes", [this, &joined] { main(joined); });
    std::future<void> up = joined.get_future();
    if (!come_by(up, options.timeout_s, "up")) std::_Exit(1);  // the library cannot be left: the launcher ends the rest
    try {
      up.get();
    } catch (...) {
      thread_.join();
      throw;
    }
  }

  ~MpiWorld() override {
    post([this] { ending_ = ending_ == Ending::kNone ? Ending::kAbort : ending_; });
    // Nobody is watched over from here on, and the library waits for all.
    std::future<void> ended = ended_.get_future();
    if (!come_by(ended, options_.timeout_s, "to an end")) std::_Exit(1);
    thread_.join();
  }

  Port& port() override { return *this; }
  int local_size() const override { return local_size_; }
  bool speaks() const override { return speaks_; }

  void leave() override {
    Event left = Event::pending();
    post([this, left] {
      if (error_) return left.finish(error_);
      ending_ = Ending::kLeave;
      left_ = left;
    });
    left.wait();
  }

 private:
  enum class Ending { kNone, kLeave, kAbort };
  struct Wanted {
    Inbox inbox{std::span<std::byte>()};
    Event done;
    size_t filled = 0;  ///< bytes of an exact inbox whose pieces were matched
    std::vector<std::byte> whole;
    int pieces_under_way = 0;
    bool matched = false;  ///< all pieces
  };
  struct Outgoing {
    Channel channel;
    std::span<const std::byte> bytes;
    Event done;
    size_t sent = 0;
    size_t pieces_under_way = 0;
  };
  struct Draw {
    int64_t one = 1, ticket = 0;
    Event done = Event::pending();
  };
  struct Request {
    MPI_Request request;
    std::function<void()> then;
    int peer;
  };
  struct Process {
    int pid = 0;
    std::string host;
    Clock::time_point heard;
    std::deque<std::shared_ptr<Outgoing>> outgoing;
    size_t pieces_under_way = 0;
  };
  using Key = std::pair<int, int>;  ///< (peer, channel)

  // Port, called from any thread.
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(processes_.size()); }
  std::string describe(int rank) const override {
    const Process& process = processes_[static_cast<size_t>(rank)];
    return fmt::format("rank {} on {} (process {})", rank, process.host, process.pid);
  }
  Event send(int peer, Channel channel, std::span<const std::byte> bytes, double) override {
    FLEXGEN_CHECK(peer >= 0 && peer < size() && (bulky(channel) || bytes.size() < INT_MAX), "rank {}, {} bytes", peer, bytes.size());
    auto outgoing = std::make_shared<Outgoing>(Outgoing{channel, bytes, Event::pending()});
    post([this, peer, outgoing] {
      if (error_) return outgoing->done.finish(error_);
      processes_[static_cast<size_t>(peer)].outgoing.push_back(outgoing);
    });
    return outgoing->done;
  }
  Event receive(int peer, Channel channel, Inbox inbox, double) override {
    FLEXGEN_CHECK(peer >= 0 && peer < size(), "rank {}", peer);
    auto wanted = std::make_shared<Wanted>();
    wanted->inbox = inbox;
    wanted->done = Event::pending();
    post([this, peer, channel, wanted] {
      if (error_) return wanted->done.finish(error_);
      const Key key{peer, static_cast<int>(channel)};
      wanted_[key].push_back(wanted);
      match(key);
    });
    return wanted->done;
  }
  Event draw(int64_t* ticket) override {
    auto draw = std::make_shared<Draw>();
    post([this, ticket, draw] {
      if (error_) return draw->done.finish(error_);
      MPI_Request request;
      // A fetch and add that can be tested for, so that a target that hangs does not stop the watch over it.
      check(MPI_Rget_accumulate(&draw->one, 1, MPI_INT64_T, &draw->ticket, 1, MPI_INT64_T, 0, 0, 1, MPI_INT64_T, MPI_SUM, window_, &request), "draw");
      drawing_.push_back(draw);
      requests_.push_back({request,
                           [this, draw, ticket] {
                             drawing_.erase(std::find(drawing_.begin(), drawing_.end(), draw));
                             *ticket = draw->ticket;
                             draw->done.finish();
                           },
                           0});
    });
    return draw->done;
  }
  void abort(const std::string& reason) override {
    post([this, reason] { begin_abort(reason, true); });
  }

  void post(std::function<void()> command) {
    {
      std::lock_guard lock(mutex_);
      commands_.push_back(std::move(command));
    }
    changed_.notify_one();
  }

  // The thread that speaks MPI.
  static void check(int code, const char* what) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw Error(ErrorKind::kPeer, fmt::format("MPI ({}): {}", what, std::string(text, static_cast<size_t>(length))));
  }

  void main(std::promise<void>& joined) {
    try {
      join();
    } catch (...) {
      joined.set_exception(std::current_exception());
      return;
    }
    joined.set_value();
    last_poll_ = last_active_ = Clock::now();
    while (ending_ != Ending::kAbort && !(ending_ == Ending::kLeave && left_.done())) {
      try {
        poll();
      } catch (const std::exception& error) {
        begin_abort(fmt::format("{}: {}", describe(rank_), error.what()), true);
      }
    }
    if (ending_ == Ending::kAbort || error_) end_job();
    MPI_Win_unlock_all(window_);
    MPI_Win_free(&window_);
    MPI_Finalize();
    ended_.set_value();
  }

  void join() {
    setenv("OMPI_MCA_btl_base_warn_component_unused", "0", 0);
    if (!may_copy_between_processes()) setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    setenv("OMPI_MCA_osc", "^rdma", 0);  // 4.1's chooses itself for windows over TCP, and then fails
    int provided = 0;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "start");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    int size = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    struct Card {
      int pid;
      char host[256];
    } own{static_cast<int>(getpid()), {}};
    gethostname(own.host, sizeof(own.host) - 1);
    std::vector<Card> cards(static_cast<size_t>(size));
    check(MPI_Allgather(&own, sizeof(own), MPI_BYTE, cards.data(), sizeof(own), MPI_BYTE, MPI_COMM_WORLD), "meet");
    for (const Card& card : cards) {
      processes_.push_back({card.pid, card.host, Clock::now(), {}, 0});
      if (std::string(card.host) == own.host) ++local_size_;
    }
    check(MPI_Win_allocate(rank_ == 0 ? sizeof(int64_t) : 0, sizeof(int64_t), MPI_INFO_NULL, MPI_COMM_WORLD, &counter_, &window_), "window");
    MPI_Win_set_errhandler(window_, MPI_ERRORS_RETURN);
    if (rank_ == 0) *counter_ = 0;
    check(MPI_Barrier(MPI_COMM_WORLD), "meet");
    check(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_), "window");
  }

  void poll() {
    std::deque<std::function<void()>> commands;
    {
      std::unique_lock lock(mutex_);
      const double idle_s = seconds_between(last_active_, Clock::now());
      const double sleep_s = std::clamp(idle_s / 8, kShortestSleep_s, kLongestSleep_s);
      changed_.wait_for(lock, std::chrono::duration<double>(sleep_s), [&] { return !commands_.empty(); });
      commands.swap(commands_);
    }
    bool active = !commands.empty();
    for (auto& command : commands) command();
    if (error_) return watch(Clock::now());  // memory that messages were to be received into may be gone
    active |= take_in();
    active |= finish_requests();
    active |= send_more();
    const auto now = Clock::now();
    if (active) last_active_ = now;
    watch(now);
    if (ending_ == Ending::kLeave && !error_) leave_step();
  }

  /// Matches what has arrived; what nobody wants yet is kept in order.
  bool take_in() {
    bool any = false;
    for (;;) {
      int flag = 0;
      MPI_Message message;
      MPI_Status status;
      check(MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, &message, &status), "look for messages");
      if (!flag) return any;
      any = true;
      int bytes = 0;
      MPI_Get_count(&status, MPI_BYTE, &bytes);
      processes_[static_cast<size_t>(status.MPI_SOURCE)].heard = Clock::now();
      if (status.MPI_TAG == kBeatTag || status.MPI_TAG == kAbortTag) {
        std::string text(static_cast<size_t>(bytes), '\0');
        check(MPI_Mrecv(text.data(), bytes, MPI_BYTE, &message, MPI_STATUS_IGNORE), "receive");
        if (status.MPI_TAG == kAbortTag) begin_abort(text, false);
        continue;
      }
      const Key key{status.MPI_SOURCE, status.MPI_TAG};
      arrived_[key].emplace_back(message, bytes);
      match(key);
    }
  }

  void match(const Key& key) {
    auto& wanted = wanted_[key];
    auto& arrived = arrived_[key];
    while (!wanted.empty() && !arrived.empty()) {
      auto [message, bytes] = arrived.front();
      arrived.pop_front();
      std::shared_ptr<Wanted> want = wanted.front();
      std::byte* into = nullptr;
      if (want->inbox.any) {
        want->whole.resize(static_cast<size_t>(bytes));
        into = want->whole.data();
        want->matched = true;
      } else {
        if (want->filled + static_cast<size_t>(bytes) > want->inbox.exact.size())
          throw Error(ErrorKind::kPeer, fmt::format("{} sent {} bytes more than the {} that were expected", describe(key.first),
                                                    want->filled + static_cast<size_t>(bytes) - want->inbox.exact.size(), want->inbox.exact.size()));
        into = want->inbox.exact.data() + want->filled;
        want->filled += static_cast<size_t>(bytes);
        want->matched = want->filled == want->inbox.exact.size();
        if (!want->matched && !bulky(static_cast<Channel>(key.second)))
          throw Error(ErrorKind::kPeer, fmt::format("{} sent {} bytes where {} were expected", describe(key.first), bytes, want->inbox.exact.size()));
      }
      if (want->matched) wanted.pop_front();
      ++want->pieces_under_way;
      receiving_.push_back(want);
      MPI_Request request;
      check(MPI_Imrecv(into, bytes, MPI_BYTE, &message, &request), "receive");
      requests_.push_back({request,
                           [this, want] {
                             receiving_.erase(std::find(receiving_.begin(), receiving_.end(), want));
                             if (--want->pieces_under_way > 0 || !want->matched) return;
                             if (want->inbox.any) *want->inbox.any = std::move(want->whole);
                             want->done.finish();
                           },
                           key.first});
    }
  }

  bool finish_requests() {
    bool any = false;
    for (auto it = requests_.begin(); it != requests_.end();) {
      int flag = 0;
      check(MPI_Test(&it->request, &flag, MPI_STATUS_IGNORE), "finish a message");
      if (!flag) {
        ++it;
        continue;
      }
      any = true;
      if (it->peer >= 0) processes_[static_cast<size_t>(it->peer)].heard = Clock::now();
      auto then = std::move(it->then);
      it = requests_.erase(it);
      then();
    }
    return any;
  }

  bool send_more() {
    bool any = false;
    for (size_t peer = 0; peer < processes_.size(); ++peer) {
      Process& process = processes_[peer];
      while (!process.outgoing.empty() && process.pieces_under_way < kWindow) {
        std::shared_ptr<Outgoing> out = process.outgoing.front();
        const size_t left = out->bytes.size() - out->sent, piece = bulky(out->channel) ? std::min(left, kPieceBytes) : left;
        MPI_Request request;
        check(MPI_Isend(out->bytes.data() + out->sent, static_cast<int>(piece), MPI_BYTE, static_cast<int>(peer), static_cast<int>(out->channel),
                        MPI_COMM_WORLD, &request),
              "send");
        out->sent += piece;
        ++out->pieces_under_way;
        ++process.pieces_under_way;
        any = true;
        if (out->sent == out->bytes.size()) {
          process.outgoing.pop_front();
          sending_.push_back(out);
        }
        // A small message is done when the library has copied it, which says nothing of the peer.
        requests_.push_back({request,
                             [this, peer, out] {
                               --processes_[peer].pieces_under_way;
                               if (--out->pieces_under_way > 0 || out->sent < out->bytes.size()) return;
                               sending_.erase(std::find(sending_.begin(), sending_.end(), out));
                               out->done.finish();
                             },
                             -1});
      }
    }
    return any;
  }

  /// Tells the peers that this process lives, and gives up those that do not: rank 0 watches all, the others rank 0.
  void watch(Clock::time_point now) {
    // A process that was itself suspended knows nothing of the others' silence.
    if (seconds_between(last_poll_, now) > options_.timeout_s / 2)
      for (Process& process : processes_) process.heard = now;
    last_poll_ = now;
    if (error_) {
      if (seconds_between(aborted_, now) <= kGrace_s) return;
      // Whoever was to say it is busy with something that does not end.
      if (speaks_) write_note(fmt::format("flexgen: {}\n", reason_));
      ending_ = Ending::kAbort;
      return;
    }
    if (seconds_between(last_beat_, now) >= kBeatInterval_s) {
      last_beat_ = now;
      for (int peer = 0; peer < size(); ++peer)
        if (peer != rank_ && (peer == 0 || rank_ == 0)) post_farewell(peer, kBeatTag, "");
    }
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank_ || (rank_ != 0 && peer != 0)) continue;
      const double silent_s = seconds_between(processes_[static_cast<size_t>(peer)].heard, now);
      // So that not all speak at once if it is rank 0.
      if (silent_s > options_.timeout_s + 0.5 * std::max(0, rank_ - 1))
        return begin_abort(
            fmt::format("{} has not been heard of for {:.0f} s, so it is dead, hangs, or cannot be reached; finished answers are kept: see to it, and run "
                        "the same command again, with any number of ranks",
                        describe(peer), silent_s),
            true, peer == 0);
    }
  }

  void post_farewell(int peer, int tag, const std::string& text) {
    auto kept = std::make_shared<std::string>(text);
    MPI_Request request;
    check(MPI_Isend(kept->data(), static_cast<int>(kept->size()), MPI_BYTE, peer, tag, MPI_COMM_WORLD, &request), "send");
    requests_.push_back({request, [kept] {}, -1});
  }

  /// `instead_of_root`: it is rank 0 that is lost.
  void begin_abort(const std::string& reason, bool tell, bool instead_of_root = false) {
    if (error_) return;
    reason_ = reason;
    speaks_ = rank_ == 0 || instead_of_root;
    error_ = std::make_exception_ptr(Error(ErrorKind::kPeer, reason));
    aborted_ = Clock::now();
    if (tell) {
      try {
        requests_.clear();  // nothing more is finished; what is under way stays the library's
        for (int peer = 0; peer < size(); ++peer)
          if (peer != rank_) post_farewell(peer, kAbortTag, reason);
        while (!requests_.empty() && seconds_between(aborted_, Clock::now()) < kFarewell_s) {
          finish_requests();
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
      } catch (const std::exception&) {  // the library is at its end, too
      }
    }
    requests_.clear();
    std::vector<Event> pending;
    for (auto& draw : drawing_) pending.push_back(draw->done);
    for (auto& [key, queue] : wanted_)
      for (auto& want : queue) pending.push_back(want->done);
    for (auto& want : receiving_)
      if (want->matched) pending.push_back(want->done);
    for (auto& out : sending_) pending.push_back(out->done);
    for (Process& process : processes_)
      for (auto& out : process.outgoing) pending.push_back(out->done);
    wanted_.clear();
    receiving_.clear();
    sending_.clear();
    drawing_.clear();
    for (Process& process : processes_) process.outgoing.clear();
    if (ending_ == Ending::kLeave) pending.push_back(left_);
    for (const Event& event : pending)
      if (!event.done()) event.finish(error_);
  }

  void leave_step() {
    if (!leaving_) {
      leaving_ = true;
      MPI_Request request;
      check(MPI_Ibarrier(MPI_COMM_WORLD, &request), "leave");
      requests_.push_back({request, [this] { left_.finish(); }, -1});
    }
  }

  [[noreturn]] void end_job() {
    // Rank 0 has the output and speaks for all: it goes first.
    if (rank_ != 0) std::this_thread::sleep_for(std::chrono::seconds(2));
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::_Exit(1);
  }

  WorldOptions options_;
  int rank_ = 0, local_size_ = 0;
  std::vector<Process> processes_;
  MPI_Win window_ = MPI_WIN_NULL;
  int64_t* counter_ = nullptr;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> commands_;

  std::map<Key, std::deque<std::shared_ptr<Wanted>>> wanted_;
  std::map<Key, std::deque<std::pair<MPI_Message, int>>> arrived_;
  std::list<Request> requests_;
  std::vector<std::shared_ptr<Wanted>> receiving_;  ///< an entry a piece
  std::vector<std::shared_ptr<Outgoing>> sending_;  ///< whose last piece was begun
  std::vector<std::shared_ptr<Draw>> drawing_;
  Clock::time_point last_beat_{}, last_poll_{}, last_active_{}, aborted_{};
  std::exception_ptr error_;
  std::string reason_;
  std::atomic<bool> speaks_{true};
  Ending ending_ = Ending::kNone;
  bool leaving_ = false;
  Event left_ = Event::pending();
  std::promise<void> ended_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<World> join_world(const Launch&, const WorldOptions& options) { return std::make_unique<MpiWorld>(options); }

std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string all(text, static_cast<size_t>(length));
  // "Open MPI v4.1.4, package: ..."
  const std::string first = all.substr(0, all.find(','));
  const size_t v = first.find(" v");
  return v == std::string::npos ? first : first.substr(0, v + 1) + first.substr(v + 2);
}

}  // namespace flexgen
