#include "serve/http_server.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include <fmt/format.h>
#include <httplib.h>

#include "base/error.h"
#include "base/log.h"
#include "serve/api_error.h"
#include "serve/chunk_frames.h"
#include "serve/form_parser.h"

namespace flexgen {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kSocketBytes = 16 << 10;
constexpr size_t kMaxPathBytes = 512;  // the library matches patterns by recursion
constexpr double kLingerS = 2;         // for a client that sends on while it is refused
constexpr int64_t kLingerBytes = int64_t{64} << 20;
constexpr int kBacklog = 1024;
constexpr int kHeadersTooLong = 431;
constexpr int64_t kFreeBytes = kSocketBytes;  // bodies that need no room: a connection holds as much anyway
constexpr int kRoomRetryS = 5;
constexpr double kStopPollS = 0.2;  // in which a waiting connection notices that the server stops

Clock::duration seconds(double s) { return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s)); }

/// A connection, as the library reads and writes it.
class Connection : public httplib::Stream {
 public:
  /// `bodies`: the room for what is received.
  Connection(socket_t socket, const HttpLimits& limits, BodyRoom& bodies, BodyRoom& turns) : bodies(bodies), turns(turns), socket_(socket), limits_(limits) {}
  BodyRoom &bodies, &turns;

  /// Until a request begins; false if none does. One that is there already, or is about to come, is read whatever `stops` says.
  bool await_request(const std::function<bool()>& stops) {
    const auto until = Clock::now() + seconds(limits_.idle_s);
    do {
      // A line end before a request is none of it: some clients send one behind a body (RFC 9112, 2.2).
      while (at_ < end_ && (buffer_[at_] == '\r' || buffer_[at_] == '\n')) ++at_;
      if (at_ < end_) return true;
      if (wait_for(POLLIN, kStopPollS) && receive() <= 0) return false;
    } while (at_ < end_ || (Clock::now() < until && !stops()));
    return false;
  }
  void begin_request() {
    headers_left_ = limits_.header_bytes;
    in_headers_ = true;
    refused_ = wrote_ = holds_room_ = late_ = false;
    chunks_.reset();
    deadline_ = Clock::now() + seconds(limits_.read_s);
    body_since_ = 0;
  }
  /// The handler is called: what is read from now on is the body.
  void begin_body(bool in_chunks) {
    in_headers_ = false;
    if (in_chunks) chunks_.emplace();
    deadline_ = Clock::now() + seconds(limits_.read_s);
  }
  /// The body's time begins now: the client could not help it that there was no room. While others wait for some, it has no more than that.
  void begin_long_body() {
    holds_room_ = true;
    body_since_ = 0;
    deadline_ = Clock::now() + seconds(limits_.read_s);
  }
  double patience_s() const { return limits_.read_s; }
  /// The rest of the body is not wanted.
  void refuse_rest() { refused_ = true; }
  bool refused() const { return refused_; }
  /// The time to send the body was up before it was there.
  bool is_late() const { return late_; }
  /// No head of a request was read that could be understood, so nobody knows where the next one begins.
  bool in_headers() const { return in_headers_; }
  bool headers_too_long() const { return headers_left_ < 0; }
  /// Whether anything was said to the request.
  bool wrote() const { return wrote_; }
  /// Takes what a refused client still sends, so that it reads the answer before it learns that nobody listens.
  void linger() {
    ::shutdown(socket_, SHUT_WR);
    const auto until = Clock::now() + seconds(kLingerS);
    for (int64_t taken = 0; taken < kLingerBytes && Clock::now() < until;) {
      if (!wait_for(POLLIN, kStopPollS)) continue;
      const ssize_t count = ::recv(socket_, buffer_, sizeof buffer_, 0);
      if (count <= 0) return;
      taken += count;
    }
  }
  bool gone() const {
    pollfd poll{socket_, POLLRDHUP, 0};
    return ::poll(&poll, 1, 0) > 0 && (poll.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
  }

  bool is_readable() const override { return at_ < end_ || wait_for(POLLIN, seconds_left()); }
  bool is_writable() const override { return !gone(); }
  ssize_t read(char* data, size_t size) override {
    if (at_ == end_ && !fill()) return -1;
    bool is_taken = false;
    while (chunks_ && !is_taken && chunks_->behind_body()) {
      if (at_ == end_ && !fill()) return -1;
      if (!chunks_->take({buffer_ + at_, 1})) return refuse();
      is_taken = !chunks_->in_field();
      if (!is_taken) ++at_;
    }
    const size_t count = is_taken ? 1 : std::min(size, end_ - at_);
    if (in_headers_ && (headers_left_ -= static_cast<int64_t>(count)) < 0) return refuse();
    if (chunks_ && !is_taken && !chunks_->take({buffer_ + at_, count})) return refuse();
    std::memcpy(data, buffer_ + at_, count);
    at_ += count;
    return static_cast<ssize_t>(count);
  }
  ssize_t write(const char* data, size_t size) override {
    wrote_ = true;
    for (size_t sent = 0; sent < size;) {
      if (!wait_for(POLLOUT, limits_.write_s)) return -1;
      const ssize_t count = ::send(socket_, data + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return -1;
      if (count > 0) sent += static_cast<size_t>(count);
    }
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string& ip, int& port) const override { address(&::getpeername, ip, port); }
  void get_local_ip_and_port(std::string& ip, int& port) const override { address(&::getsockname, ip, port); }
  socket_t socket() const override { return socket_; }

 private:
  ssize_t refuse() {
    refused_ = true;
    return -1;
  }
  double seconds_left() const { return std::chrono::duration<double>(deadline_ - Clock::now()).count(); }
  bool wait_for(short what, double time_s) const {
    pollfd poll{socket_, what, 0};
    const auto until = Clock::now() + seconds(time_s);
    for (;;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
      const int ready = ::poll(&poll, 1, static_cast<int>(std::max<int64_t>(0, left)));
      if (ready > 0) return (poll.revents & (what | POLLHUP | POLLERR)) != 0;
      if (ready == 0 || errno != EINTR) return false;
    }
  }
  bool fill() {
    if (seconds_left() <= 0 || !wait_for(POLLIN, seconds_left())) {
      refused_ = late_ = true;
      return false;
    }
    const ssize_t count = receive();
    if (count <= 0) return false;
    // Time goes by bytes, so that a long body over a slow line comes through and one that trickles does not.
    if (!in_headers_ && (body_since_ += count) > (1 << 20) && !(holds_room_ && bodies.awaited())) {
      body_since_ = 0;
      deadline_ = Clock::now() + seconds(limits_.read_s);
    }
    return true;
  }
  /// What is there; 0 or less if the client is gone.
  ssize_t receive() {
    std::memmove(buffer_, buffer_ + at_, end_ - at_);
    end_ -= std::exchange(at_, 0);
    const ssize_t count = ::recv(socket_, buffer_ + end_, sizeof buffer_ - end_, 0);
    end_ += static_cast<size_t>(std::max<ssize_t>(0, count));
    return count;
  }
  void address(int (*of)(int, sockaddr*, socklen_t*), std::string& ip, int& port) const {
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    char host[NI_MAXHOST], service[NI_MAXSERV];
    if (of(socket_, reinterpret_cast<sockaddr*>(&storage), &size) != 0 ||
        ::getnameinfo(reinterpret_cast<sockaddr*>(&storage), size, host, sizeof host, service, sizeof service, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
      return;
    ip = host;
    port = std::atoi(service);
  }

  socket_t socket_;
  const HttpLimits& limits_;
  char buffer_[kSocketBytes];
  size_t at_ = 0, end_ = 0;
  Clock::time_point deadline_{};
  int64_t headers_left_ = 0, body_since_ = 0;
  bool in_headers_ = true, refused_ = false, wrote_ = false, holds_room_ = false, late_ = false;
  std::optional<ChunkFrames> chunks_;  ///< of a body that comes in them
};

thread_local Connection* connection_here = nullptr;  // of this thread; the library hands it to nobody

thread_local bool no_thread_for_connection = false;  // while one is given up on the thread that accepted it

/// A thread a connection, as long as there may be another; then connections wait to be accepted.
class ConnectionThreads : public httplib::TaskQueue {
 public:
  ConnectionThreads(int64_t most, std::atomic<int64_t>& count) : most_(most), count_(count) {}
  void enqueue(std::function<void()> work) override {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return count_ < most_; });
    ++count_;
    lock.unlock();
    try {
      std::thread([this, work] {
        work();
        std::lock_guard guard(mutex_);
        --count_;
        ended_.notify_all();
      }).detach();
    } catch (const std::system_error& error) {
      spdlog::warn("no thread for a connection: {}", error.what());
      no_thread_for_connection = true;
      work();  // which closes it, as nobody else can
      no_thread_for_connection = false;
      lock.lock();
      --count_;
    }
  }
  void shutdown() override {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return count_ == 0; });
  }

 private:
  int64_t most_;
  std::atomic<int64_t>& count_;
  std::mutex mutex_;
  std::condition_variable ended_;
};

/// The answer is the connection's last.
void say_close(const httplib::Request& request, httplib::Response& response) {
  if (request.get_header_value("Connection") != "close") response.set_header("Connection", "close");  // else the library says so
}

/// RFC 9110's token. "Content-Length " is none: whoever passes it on may read it as the field that flexgen does not see in it.
bool is_field_name(const std::string& name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || std::strchr("!#$%&'*+-.^_`|~", c); }) &&
         name.find('\0') == std::string::npos;
}

/// A proxy is asked with the whole address; what is asked for is its path.
void take_path_of_address(httplib::Request& request) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!request.path.starts_with(scheme)) continue;
    const size_t slash = request.path.find('/', scheme.size());
    request.path = slash == std::string::npos ? "/" : request.path.substr(slash);
    return;
  }
}

bool is_number(const std::string& text) { return !text.empty() && text.size() < 19 && text.find_first_not_of("0123456789") == std::string::npos; }

class Call : public HttpCall {
 public:
  Call(const httplib::Request& request, httplib::Response& response, const httplib::ContentReader* reader)
      : request_(request), response_(response), reader_(reader) {}

  const std::string& method() const override { return request_.method; }
  const std::string& path() const override { return request_.path; }
  std::string header(const std::string& name) const override { return request_.get_header_value(name); }
  std::string query(const std::string& name) const override { return request_.get_param_value(name); }
  std::string wrong_query(const std::vector<std::string>& known) const override {
    for (const auto& [name, value] : request_.params)
      if (request_.params.count(name) > 1 || std::find(known.begin(), known.end(), name) == known.end()) return name;
    return "";
  }

  HttpBody body(int64_t most_bytes) override {
    HttpBody body;
    std::string& text = body.text;
    check_length(most_bytes);
    if (!reader_) return body;
    // The library reads a form by another way, and by this one ends within it.
    if (request_.is_multipart_form_data()) {
      connection_here->refuse_rest();
      throw ApiError{400, "the body is a form (multipart/form-data), and this call takes JSON; send that, with Content-Type: application/json", "invalid_json"};
    }
    const std::string length = request_.get_header_value("Content-Length");
    const int64_t most = length.empty() ? most_bytes : std::stoll(length);
    bool too_long = false, needs_room = most > kFreeBytes;
    const auto take_room = [&] {
      wait_for_room(most, body);
      needs_room = false;
    };
    if (!length.empty() && needs_room) take_room();
    took_body_ = true;
    const bool whole = take_body([&] {
      return (*reader_)([&](const char* data, size_t size) {
        too_long = std::ssize(text) + static_cast<int64_t>(size) > most_bytes;
        if (!too_long && needs_room && std::ssize(text) + static_cast<int64_t>(size) > kFreeBytes) take_room();
        if (!too_long) text.append(data, size);
        return !too_long;
      });
    });
    finish_reading(whole, too_long, most_bytes);
    body.received.shrink(std::ssize(text));
    if (std::ssize(text) > kFreeBytes) wait_for_turn(body);
    return body;
  }

  bool form(int64_t most_bytes, const std::function<void(const HttpPart&)>& part, const std::function<void(std::string_view)>& piece) override {
    const std::optional<std::string> boundary = form_boundary(request_.get_header_value("Content-Type"));
    if (!boundary || !reader_) return false;
    check_length(most_bytes);
    took_body_ = true;
    // The library's own reader of forms takes few of those that are sent; without a type it hands over the body as it is.
    const_cast<httplib::Request&>(request_).headers.erase("Content-Type");
    FormParser parser(*boundary, part, piece);
    int64_t bytes = 0;
    bool too_long = false, is_form = true;
    std::exception_ptr error;
    const bool whole = take_body([&] {
      return (*reader_)([&](const char* data, size_t size) {
        bytes += static_cast<int64_t>(size);
        too_long = bytes > most_bytes;
        if (too_long) return false;
        try {
          is_form = parser.take({data, size});
        } catch (...) {
          error = std::current_exception();
        }
        return is_form && !error;
      });
    });
    if (error || !is_form) connection_here->refuse_rest();
    if (error) std::rethrow_exception(error);
    if (!is_form || (whole && !parser.ended()))
      throw ApiError{400,
                     "the form cannot be read: each of up to 16 parts needs Content-Disposition: form-data with a name, and the last boundary ends with --",
                     "invalid_value"};
    finish_reading(whole, too_long, most_bytes);
    return true;
  }
  bool gone() const override { return connection_here->gone(); }
  /// A body that nobody took would be read as the next request.
  bool leaves_body() const { return reader_ && !took_body_; }

  void answer(int status, const std::string& type, std::string body, const std::vector<std::pair<std::string, std::string>>& headers) override {
    response_.status = status;
    for (const auto& [name, value] : headers) response_.set_header(name, value);
    response_.set_content(body, type);
  }
  void stream(const std::string& type, std::function<void(const HttpWrite&, const HttpGone&)> run) override {
    response_.status = 200;
    response_.set_header("Cache-Control", "no-cache");
    response_.set_chunked_content_provider(type, [run = std::move(run)](size_t, httplib::DataSink& sink) {
      bool whole = true;
      try {
        run([&](std::string_view piece) { return whole = whole && sink.write(piece.data(), piece.size()); }, [] { return connection_here->gone(); });
      } catch (const std::exception& error) {
        spdlog::error("an answer was cut off: {}", error.what());
        whole = false;
      }
      if (whole) sink.done();
      return whole;
    });
  }

 private:
  /// Until all of a body that may have so many bytes can be held: one that is begun is never stuck.
  static void wait_for_room(int64_t bytes, HttpBody& body) {
    const auto until = Clock::now() + seconds(connection_here->patience_s());
    auto lease = connection_here->bodies.take(bytes, [&] { return Clock::now() > until || connection_here->gone(); });
    if (!lease) {
      connection_here->refuse_rest();
      throw ApiError{429, "the server receives as many long bodies as it may hold; try again later", "bodies_full", "", kRoomRetryS};
    }
    body.received = std::move(*lease);
    body.text.reserve(static_cast<size_t>(bytes));
    connection_here->begin_long_body();
  }
  /// What is made of a body takes many times its size.
  static void wait_for_turn(HttpBody& body) {
    auto lease = connection_here->turns.take(std::ssize(body.text), [] { return connection_here->gone(); });
    if (!lease) throw ApiError{499, "the client has hung up", "client_gone"};
    body.turn = std::move(*lease);
  }
  void check_length(int64_t most_bytes) const {
    const std::string length = request_.get_header_value("Content-Length");
    if (!length.empty() && is_number(length) && std::stoll(length) > most_bytes) refuse_length(most_bytes);
  }
  [[noreturn]] static void refuse_length(int64_t most_bytes) {
    connection_here->refuse_rest();
    throw ApiError{413, fmt::format("the body has more than {} bytes", most_bytes), "body_too_long"};
  }
  /// What `read` gives. Where that throws, how much of the body it took is not known.
  template <typename Read>
  static bool take_body(Read read) {
    try {
      return read();
    } catch (...) {
      connection_here->refuse_rest();
      throw;
    }
  }
  void finish_reading(bool whole, bool too_long, int64_t most_bytes) {
    response_.status = -1;  // the library has set it
    if (too_long) refuse_length(most_bytes);
    if (whole) return;
    connection_here->refuse_rest();
    if (connection_here->is_late()) throw ApiError{408, "the body did not arrive whole in its time", "incomplete_body"};
    throw ApiError{400, "the body did not arrive whole", "incomplete_body"};
  }

  const httplib::Request& request_;
  httplib::Response& response_;
  const httplib::ContentReader* reader_;
  bool took_body_ = false;
};

}  // namespace

class HttpServer::Impl : public httplib::Server {
 public:
  Impl(const HttpLimits& limits, std::function<void(HttpCall&)> handler, std::function<std::string(int)> own_errors)
      : limits_(limits), bodies_(limits.body_bytes), turns_(limits.turn_bytes), handler_(std::move(handler)), own_errors_(std::move(own_errors)) {
    new_task_queue = [this] { return new ConnectionThreads(limits_.connections, count_); };
    set_tcp_nodelay(true);
    // The library would let two servers share a port.
    set_socket_options([](socket_t socket) {
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    set_keep_alive_timeout(static_cast<time_t>(limits_.idle_s));  // what answers say
    set_keep_alive_max_count(1 << 20);
    set_error_handler([this](const httplib::Request& request, httplib::Response& response) {
      if (connection_here->in_headers()) {
        if (connection_here->headers_too_long()) response.status = kHeadersTooLong;
        connection_here->refuse_rest();
        say_close(request, response);
      }
      if (response.body.empty()) response.set_content(own_errors_(response.status), "application/json");
    });
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) { return before_body(request, response); });
    Post(".*",
         [this](const httplib::Request& request, httplib::Response& response, const httplib::ContentReader& reader) { handle(request, response, &reader); });
  }
  int64_t count() const { return count_; }
  std::atomic<bool> stopping{false}, ended{false};
  void hang_up() {
    std::lock_guard guard(mutex_);
    for (const socket_t socket : sockets_) ::shutdown(socket, SHUT_RDWR);
  }

  /// The system takes a few connections more than the library asks it to.
  void widen_backlog() { ::listen(svr_sock_, kBacklog); }

 private:
  HandlerResponse before_body(const httplib::Request& request, httplib::Response& response) {
    auto& changed = const_cast<httplib::Request&>(request);  // the library's own, which it goes on with
    changed.ranges.clear();                                  // answers are given whole
    changed.headers.erase("Accept-Encoding");                // and plain: they are streamed as they come
    take_path_of_address(changed);
    const auto refuse = [&](int status) {
      connection_here->refuse_rest();
      response.status = status;
      return HandlerResponse::Handled;
    };
    const std::string length = request.get_header_value("Content-Length");
    std::string coding = request.get_header_value("Transfer-Encoding");
    std::transform(coding.begin(), coding.end(), coding.begin(), [](unsigned char c) { return std::tolower(c); });
    if (request.path.size() > kMaxPathBytes) return refuse(414);
    for (const auto& [name, value] : request.headers)
      if (!is_field_name(name)) return refuse(400);
    if (request.get_header_value_count("Transfer-Encoding") > 1 || request.get_header_value_count("Content-Length") > 1 ||
        (!length.empty() && !is_number(length)) || (!length.empty() && !coding.empty()))
      return refuse(400);
    if (!coding.empty() && coding != "chunked") return refuse(501);
    connection_here->begin_body(!coding.empty());
    const bool has_body = !coding.empty() || (!length.empty() && std::stoll(length) > 0);
    if (request.method == "POST" && has_body) {
      welcome_body(request);
      return HandlerResponse::Unhandled;
    }
    const bool may_do = request.method == "GET" || request.method == "HEAD" || request.method == "DELETE";
    if (has_body && may_do) {  // nobody reads it, and it is no request
      say_close(request, response);
      return refuse(400);
    }
    if (has_body) connection_here->refuse_rest();  // the handler says that there is no such method
    handle(request, response, nullptr);
    return HandlerResponse::Handled;
  }

  /// The client waits for leave to send the body. The library gives it where the word is in small letters.
  static void welcome_body(const httplib::Request& request) {
    static constexpr std::string_view kWord = "100-continue", kLeave = "HTTP/1.1 100 Continue\r\n\r\n";
    std::string expected = request.get_header_value("Expect");
    if (expected == kWord || request.version == "HTTP/1.0") return;
    std::transform(expected.begin(), expected.end(), expected.begin(), [](unsigned char c) { return std::tolower(c); });
    if (expected == kWord) connection_here->write(kLeave.data(), kLeave.size());
  }

  void handle(const httplib::Request& request, httplib::Response& response, const httplib::ContentReader* reader) {
    Call call(request, response, reader);
    handler_(call);
    if (call.leaves_body()) connection_here->refuse_rest();
    if (connection_here->refused() || stopping) say_close(request, response);
  }

  bool process_and_close_socket(socket_t socket) override {
    if (no_thread_for_connection) {
      ::shutdown(socket, SHUT_RDWR);
      ::close(socket);
      return false;
    }
    auto connection = std::make_unique<Connection>(socket, limits_, bodies_, turns_);
    connection_here = connection.get();
    {
      std::lock_guard guard(mutex_);
      sockets_.insert(socket);
    }
    bool good = false, closed = false;
    try {
      do {
        // Who only holds a connection gives it up once others want one.
        if (!connection->await_request([&] { return stopping || count_ >= limits_.connections; })) break;
        connection->begin_request();
        good = process_request(*connection, stopping, closed, nullptr);
      } while (good && !closed && !connection->refused() && !stopping);
      if (connection->refused()) {
        if (connection->headers_too_long() && !connection->wrote()) say_headers_too_long(*connection);
        connection->linger();
      }
    } catch (const std::exception& error) {
      spdlog::error("a connection was given up: {}", error.what());
    }
    connection_here = nullptr;
    ::shutdown(socket, SHUT_RDWR);
    std::lock_guard guard(mutex_);
    sockets_.erase(socket);
    ::close(socket);
    return good;
  }

  /// Where not even the first line ended within them, which the library says nothing to.
  void say_headers_too_long(Connection& connection) const {
    const std::string body = own_errors_(kHeadersTooLong);
    const std::string answer = fmt::format("HTTP/1.1 {} {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
                                           kHeadersTooLong, "Request Header Fields Too Large", body.size(), body);
    connection.write(answer.data(), answer.size());
  }

  HttpLimits limits_;
  BodyRoom bodies_, turns_;
  std::function<void(HttpCall&)> handler_;
  std::function<std::string(int)> own_errors_;
  std::atomic<int64_t> count_{0};
  std::mutex mutex_;
  std::set<socket_t> sockets_;  ///< of all connections
};

HttpServer::HttpServer(const std::string& host, int port, const HttpLimits& limits, std::function<void(HttpCall&)> handler,
                       std::function<std::string(int)> own_errors)
    : impl_(std::make_unique<Impl>(limits, std::move(handler), std::move(own_errors))) {
  port_ = port == 0 ? impl_->bind_to_any_port(host) : impl_->bind_to_port(host, port) ? port : -1;
  if (port_ <= 0) fail_user("cannot listen on {} port {}: {}; give another --host or --port, or end what listens there", host, port, std::strerror(errno));
  impl_->widen_backlog();
}

HttpServer::~HttpServer() = default;

void HttpServer::run() {
  const bool good = impl_->stopping || impl_->listen_after_bind();
  impl_->ended = true;
  if (!good && !impl_->stopping) fail_io("the server's socket has failed: {}", std::strerror(errno));
}

void HttpServer::stop() {
  impl_->stopping = true;
  // Before it listens the library takes no stop.
  while (!impl_->ended && !impl_->is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  impl_->stop();
}

void HttpServer::hang_up() { impl_->hang_up(); }

int64_t HttpServer::connections() const { return impl_->count(); }

}  // namespace flexgen
