docker create --name c1 -p 8091:80 --restart unless-stopped --stop-timeout 1 busybox sh -c 'trap "echo bye; exit 3" TERM; echo started; while true; do sleep 0.1; done'
docker start c1; sleep 1
docker ps; docker inspect c1; docker inspect -s c1
docker top c1; docker top c1 -o pid,args; docker logs c1; docker logs -t --tail 1 c1; docker port c1
docker rename c1 c2
docker exec c2 sh -c 'echo hi > /newfile; rm /etc/group; echo x >> /etc/passwd'
docker kill -s USR1 c2; docker kill -s BOGUS c2; sleep .5; docker ps -a
docker start c2; sleep .5; docker stop c2; docker wait c2; docker ps -a; docker restart c2; docker stop -t 0 c2; docker inspect c2
docker rm c2
docker container prune -f
docker ps -a --filter status=exited --filter name=x --filter label=a --format json; docker ps -aq --no-trunc -s -n 3
