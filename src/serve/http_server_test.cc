#include "serve/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "serve/api_error.h"

namespace flexgen::http_server_test {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr std::chrono::milliseconds kPause{150};

/// A server that says how long bodies are.
class Served {
 public:
  explicit Served(const HttpLimits& limits)
      : server_(
            "127.0.0.1", 0, limits, [](HttpCall& call) { handle(call); }, [](int) { return std::string("{}"); }),
        thread_([this] { server_.run(); }) {}
  ~Served() {
    server_.stop();
    server_.hang_up();
    thread_.join();
  }
  int port() const { return server_.port(); }

 private:
  static void handle(HttpCall& call) {
    try {
      call.answer(200, "text/plain", std::to_string(call.body(16 * kMiB).text.size()));
    } catch (const ApiError& error) {
      call.answer(error.status, "text/plain", error.code, {{"Retry-After", std::to_string(error.retry_after_s)}});
    }
  }
  HttpServer server_;
  std::thread thread_;
};

class Client {
 public:
  Client(int port, const std::string& head, const std::string& method = "POST") : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    send(method + " / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + "\r\n\r\n");
  }
  Client(int port, int64_t length) : Client(port, "Content-Length: " + std::to_string(length)) {}
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  /// False: the server has hung up.
  bool send(const std::string& text) {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t count = ::send(socket_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) return false;
      sent += static_cast<size_t>(count);
    }
    return true;
  }
  std::string answer() {
    std::string text;
    char piece[4096];
    for (ssize_t count; (count = ::recv(socket_, piece, sizeof piece, 0)) > 0;) text.append(piece, static_cast<size_t>(count));
    return text;
  }

 private:
  int socket_;
};

HttpLimits limits(double read_s) {
  HttpLimits limits;
  limits.read_s = read_s;
  limits.body_bytes = limits.turn_bytes = 8 * kMiB;
  return limits;
}

TEST(HttpServer, BodiesBeyondTheRoomWaitUntilThereIsSome) {
  Served served(limits(30));
  Client held(served.port(), 8 * kMiB);
  held.send("begun");
  std::this_thread::sleep_for(kPause);  // it has the room
  Client plain(served.port(), 100'000), chunked(served.port(), "Transfer-Encoding: chunked"), small(served.port(), 5);
  std::string answers[2];
  std::thread threads[2] = {std::thread([&] {
                              plain.send(std::string(100'000, 'a'));
                              answers[0] = plain.answer();
                            }),
                            std::thread([&] {
                              chunked.send("30D40\r\n" + std::string(200'000, 'a') + "\r\n0\r\n\r\n");
                              answers[1] = chunked.answer();
                            })};
  small.send("small");
  EXPECT_TRUE(small.answer().ends_with("\r\n\r\n5"));
  std::this_thread::sleep_for(kPause);
  EXPECT_EQ(answers[0] + answers[1], "");
  held.send(std::string(8 * kMiB - 5, 'a'));
  EXPECT_TRUE(held.answer().ends_with("\r\n\r\n8388608"));
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(answers[0].ends_with("\r\n\r\n100000")) << answers[0];
  EXPECT_TRUE(answers[1].ends_with("\r\n\r\n200000")) << answers[1];
}

TEST(HttpServer, WhoFindsNoRoomIsToldToComeAgain) {
  Served served(limits(1));
  Client held(served.port(), 8 * kMiB);
  std::this_thread::sleep_for(2 * kPause);
  // The first is cut off before the second gives up; the second then has the room until after the third's patience has ended.
  Client second(served.port(), 8 * kMiB);
  std::this_thread::sleep_for(2 * kPause);
  Client third(served.port(), 8 * kMiB);
  const std::string answer = third.answer();
  EXPECT_NE(answer.find("429 Too Many Requests"), std::string::npos) << answer;
  EXPECT_NE(answer.find("Retry-After: 5"), std::string::npos) << answer;
}

TEST(HttpServer, ASlowBodyIsCutOffWhileOthersWaitForItsRoom) {
  const auto send_slowly = [](Client& client) {
    for (int i = 0; i < 7; ++i) {
      client.send(std::string(kMiB + 1, 'a'));
      std::this_thread::sleep_for(2 * kPause);
    }
    client.send(std::string(kMiB - 7, 'a'));
  };
  Served served(limits(1));
  {
    Client alone(served.port(), 8 * kMiB);
    send_slowly(alone);
    EXPECT_TRUE(alone.answer().ends_with("\r\n\r\n8388608")) << "it has as long as it needs";
  }
  Client slow(served.port(), 8 * kMiB);
  std::thread sender([&] { send_slowly(slow); });
  std::this_thread::sleep_for(3 * kPause);
  Client other(served.port(), 100'000);
  other.send(std::string(100'000, 'a'));
  EXPECT_TRUE(other.answer().ends_with("\r\n\r\n100000"));
  sender.join();
  const std::string late = slow.answer();
  EXPECT_TRUE(late.starts_with("HTTP/1.1 408") && late.find("incomplete_body") != std::string::npos) << late;
}

TEST(HttpServer, MethodsThatNothingTakesGetTheHandlersAnswer) {
  Served served(limits(30));
  Client put(served.port(), "Content-Length: 2", "PUT"), get(served.port(), "Content-Length: 2", "GET");
  for (Client* client : {&put, &get}) client->send("{}");
  const std::string answer = put.answer();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200") && answer.find("Connection: close") != std::string::npos && answer.ends_with("\r\n\r\n0")) << answer;
  EXPECT_TRUE(get.answer().starts_with("HTTP/1.1 400"));
}

}  // namespace
}  // namespace flexgen::http_server_test
