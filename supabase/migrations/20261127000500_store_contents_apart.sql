-- Contents that are too large for a row of task_files lie apart: there, `encoding` is 'apart', and `before` and `after`
-- are git's ids of them. The executor brings them here before it ends the run; they go with it.

alter table public.task_files drop constraint task_files_encoding_check;
alter table public.task_files add constraint task_files_encoding_check check (encoding in ('utf-8', 'base64', 'apart'));

-- A content is whole when all its `parts` are there. Of one that a secret was taken out of, `id` is still what git calls
-- the file that the agent left.
create table public.task_contents (
    run_id uuid not null constraint task_contents_run_id_fkey references public.runs (id) on delete cascade,
    id text not null constraint task_contents_id_check check (id ~ '^[0-9a-f]{40}([0-9a-f]{24})?$'),
    part integer not null,
    parts integer not null,
    data bytea not null constraint task_contents_size_check check (octet_length(data) <= 1048576),
    constraint task_contents_pkey primary key (run_id, id, part),
    constraint task_contents_part_check check (part >= 0 and part < parts and parts <= 100)
);

alter table public.task_contents enable row level security;
create policy "Users can view contents of own runs" on public.task_contents for select to authenticated
    using (exists (select 1 from public.runs r where r.id = run_id and r.user_id = (select auth.uid())));
revoke all on public.task_contents from anon, authenticated;
grant select on public.task_contents to authenticated;
grant all on public.task_contents to service_role;

-- Stores parts of contents, `[{"id", "part", "parts", "data" (base64)}]`; those that are there stay. False when the fence has
-- moved on and nothing was written.
create function public.store_contents(p_run_id uuid, p_fence integer, p_parts jsonb) returns boolean
language plpgsql set search_path = '' as $$
begin
    perform 1 from public.runs r
    where r.id = p_run_id and r.fence = p_fence and r.status in ('queued', 'running') for update;
    if not found then
        return false;
    end if;
    insert into public.task_contents (run_id, id, part, parts, data)
    select p_run_id, p.id, p.part, p.parts, decode(p.data, 'base64')
    from jsonb_to_recordset(p_parts) as p (id text, part integer, parts integer, data text)
    on conflict (run_id, id, part) do nothing;
    return true;
end $$;

-- The ids of a run's contents that are whole, as an array.
create function public.stored_contents(p_run_id uuid) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(whole.id), '[]'::jsonb)
    from (
        select c.id from public.task_contents c where c.run_id = p_run_id
        group by c.id having count(*) = max(c.parts)
    ) whole
$$;

-- Once a run is completed, nothing asks for the contents of those before it.
create function public.drop_older_contents() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    delete from public.task_contents c using public.runs r
    where c.run_id = r.id and r.task_id = new.task_id and r.id <> new.id;
    return null;
end $$;
create trigger drop_older_contents after update of status on public.runs for each row
    when (old.status <> 'completed' and new.status = 'completed')
    execute function public.drop_older_contents();

-- Which run's files an own task shows: the newest that was completed or has left any.
create function public.run_with_files(p_task_id bigint) returns uuid
language sql stable set search_path = '' as $$
    select r.id from public.runs r
    where r.task_id = p_task_id and r.user_id = (select auth.uid())
        and (r.status = 'completed' or exists (select 1 from public.task_files f where f.run_id = r.id))
    order by r.created_at desc limit 1
$$;

revoke all on function
    public.store_contents(uuid, integer, jsonb), public.stored_contents(uuid), public.run_with_files(bigint),
    public.drop_older_contents()
    from public, anon, authenticated;
grant execute on function public.store_contents(uuid, integer, jsonb), public.stored_contents(uuid) to service_role;
grant execute on function public.run_with_files(bigint) to authenticated;
